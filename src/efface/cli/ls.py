"""``efface ls``: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from efface.cli.app import app, console

if TYPE_CHECKING:
    from torch import Tensor, nn

ls = typer.Typer(help="List models, layers, data sets, methods, attackers or presets.", no_args_is_help=True)
app.add_typer(ls, name="ls")


def _show(title: str, rows: dict[str, str]) -> None:
    table = Table("Name", title, box=None, pad_edge=False)
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table, highlight=False)


@ls.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, such as resnet.")] = "",
) -> None:
    """Models by name (timm and torchvision); any other as module:function."""
    from efface.models import list_models

    names = [name for name in list_models() if pattern in name]
    for name in names:
        console.print(name, highlight=False)
    console.print(f"{len(names)} models. Any other: module:function that returns an nn.Module.", highlight=False)


@ls.command()
def layers(
    model: Annotated[str, typer.Argument(help="A model's name, or module:function.", show_default=False)],
    size: Annotated[int, typer.Option(min=8, help="Height and width of the images, pixels.")] = 64,
    classes: Annotated[int, typer.Option(min=2, help="Target classes.")] = 2,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a training step here, and propose where to cut.")
    ] = False,
    batch: Annotated[int, typer.Option(min=2, help="Images of the step that is timed.")] = 64,
    blocks: Annotated[int, typer.Option(min=2, max=4, help="Blocks to propose a cut into.")] = 2,
) -> None:
    """Layers at which a model can be cut: what each would release, and what the model up to it holds and costs.

    With --measure: seconds and activations of a training step up to each layer, and the cuts that are best for speed,
    for memory, and for both. model.at takes the same names: auto:speed, auto:memory, auto:balance.
    """
    import torch

    from efface.models import build, cut_points

    network = build(model, classes, size)
    if measure:
        _measured(network, torch.randn(batch, 3, size, size), classes, blocks)
        return
    table = Table("Layer", "Type", "Features", "Parameters up to it", "FLOPs up to it", box=None, pad_edge=False)
    for point in cut_points(network, torch.zeros(2, 3, size, size)):
        shape = "×".join(str(n) for n in point.shape[1:])
        table.add_row(point.name, point.kind, shape, f"{point.parameters:,}", f"{point.flops_share:.0%}")
    console.print(table, highlight=False)


def _measured(network: nn.Module, images: Tensor, classes: int, blocks: int) -> None:
    """Show what each layer costs in a training step, and what is proposed."""
    import torch

    from efface.engine.cuts import measure_layers
    from efface.engine.devices import has_fast_bfloat16
    from efface.models.measure import GOALS

    bfloat16 = has_fast_bfloat16()
    measured = measure_layers(network, images, classes, bfloat16=bfloat16)
    costs = measured.costs
    columns = "Layer", "Features", "Forward", "Backward", "Share", "Kept", "Target head"
    table = Table(*columns, box=None, pad_edge=False, title="A training step up to each layer", title_justify="left")
    for layer in costs.layers:
        shape = "×".join(str(n) for n in layer.shape[1:])
        times = [f"{1000 * s:.1f} ms" for s in (layer.forward_s, layer.backward_s)]
        shares = f"{layer.seconds / costs.whole.seconds:.0%}", f"{layer.kept_bytes / 2**20:.1f} MiB"
        table.add_row(layer.name, shape, *times, *shares, f"{1000 * measured.heads[layer.name]:.1f} ms")
    console.print(table, highlight=False)
    whole = f"{1000 * costs.whole.seconds:.1f} ms, {costs.whole.kept_bytes / 2**20:.1f} MiB kept"
    threads = f"{torch.get_num_threads()} thread(s), {'bfloat16' if bfloat16 else 'float32'}"
    console.print(f"A whole step of {len(images)} images: {whole}; {threads}.", highlight=False)
    proposals = Table("model.at", "Cut after", "Pipelined", "Alternating keeps", "Best for", box=None, pad_edge=False)
    for goal, meaning in GOALS.items():
        found = measured.propose(goal, blocks)
        pace, kept = f"at most {found.speedup:.2f}×", f"{found.saving:.0%} less at a time"
        proposals.add_row(f"auto:{goal}", ", ".join(found.at), pace, kept, meaning)
    console.print(proposals, highlight=False)


@ls.command()
def datasets() -> None:
    """Data sets and the layouts that are read."""
    from efface.data.load import LAYOUT_SUMMARIES

    _show("How it is recognised; its splits", LAYOUT_SUMMARIES)


@ls.command()
def methods() -> None:
    """Methods of unlearning."""
    from efface.methods import METHODS

    _show("Method", dict(METHODS.summaries()))


@ls.command()
def attackers() -> None:
    """Attackers of the audit."""
    from efface.audit.attackers import summaries

    _show("Attacker", summaries())


@ls.command()
def presets() -> None:
    """Presets of efface run."""
    from efface.experiments import presets as named

    _show("Preset", named())
