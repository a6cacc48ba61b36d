"""``efface ls``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from efface.cli.app import app, console

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
) -> None:
    """Layers at which a model can be cut: what each would release, and what the model up to it holds and costs."""
    import torch

    from efface.models import build, cut_points

    network = build(model, classes, size)
    table = Table("Layer", "Type", "Features", "Parameters up to it", "FLOPs up to it", box=None, pad_edge=False)
    for point in cut_points(network, torch.zeros(2, 3, size, size)):
        shape = "×".join(str(n) for n in point.shape[1:])
        table.add_row(point.name, point.kind, shape, f"{point.parameters:,}", f"{point.flops_share:.0%}")
    console.print(table, highlight=False)


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
