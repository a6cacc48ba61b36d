"""``efface ls``: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from efface.cli.app import app, console
from efface.errors import ConfigError, expected

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
def attackers(
    classes: Annotated[int, typer.Option(min=2, help="Classes of the attribute.")] = 5,
    people: Annotated[int, typer.Option(min=1, help="Training people.")] = 16_000,
    shape: Annotated[str, typer.Option(help="Of one person's features: 128x8x8, 65x192 or 512.")] = "128x8x8",
) -> None:
    """Attackers of the audit, which suites they are in, and about what they cost on this machine.

    Times are for one attribute on one model, trained once for at most 12 epochs. A suite's are for one attribute, on
    the original and the audited model, with its own epochs, seeds and controls.
    """
    from efface.audit.attackers import ATTACKERS, summaries
    from efface.audit.expected import Pace, cost, spoken
    from efface.audit.plan import SUITES, Plan
    from efface.config import AuditConfig

    size, pace, epochs = _shape(shape), Pace.measured(), AuditConfig().epochs
    table = Table("Name", "Attacker", *SUITES, "Time", box=None, pad_edge=False)
    for name, text in summaries().items():
        fit = ATTACKERS[name]()
        seconds = (
            "–" if fit.applies(size, classes) else spoken(pace.of(fit) * fit.seconds(people, size, classes, epochs))
        )
        table.add_row(name, text, *("yes" if name in members else "" for members in SUITES.values()), seconds)
    console.print(table, highlight=False)
    totals = []
    for name in SUITES:
        plan = Plan.of(AuditConfig(suite=name))
        found = cost(plan, [size], people, [classes], epochs=plan.epochs, pace=pace)
        totals.append(f"{name} {spoken(found.total)} ({found.fits} fits, controls {spoken(found.controls)})")
    where = f"{people:,} people, features of {shape}, {classes} classes"
    console.print(f"Suites here, for {where}: {'; '.join(totals)}.", highlight=False, soft_wrap=True)


def _shape(text: str) -> tuple[int, ...]:
    """Read 128x8x8.

    Raises:
        ConfigError: It is not one to three numbers.
    """
    parts = text.lower().replace("×", "x").split("x")
    if not 1 <= len(parts) <= 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(expected("--shape", "one to three numbers, such as 128x8x8, 65x192 or 512", text))
    return tuple(int(part) for part in parts)


@ls.command()
def presets() -> None:
    """Presets of efface run."""
    from efface.experiments import presets as named

    _show("Preset", named())
