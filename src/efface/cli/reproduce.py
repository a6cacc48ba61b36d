"""``efface reproduce``: a table or figure of the paper, printed figures and ours side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console, errors
from efface.cli.options import Quiet


@app.command()
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(help="table1, table2, table3, figure3, figure4, figure5, figure6, or all.", show_default=False),
    ],
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder that holds fairface (or utkface), celeba and cifar10. Not needed at --scale smoke."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="smoke (drawn faces, minutes), small (two cores) or paper (a GPU).")
    ] = "small",
    out: Annotated[Path | None, typer.Option(help="Folder for cells and pages. Default: reproduction/SCALE.")] = None,
    seeds: Annotated[int, typer.Option(help="Every cell is made with so many seeds.")] = 1,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of all cells, such as engine.epochs=5."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make tables and figures of the paper's evaluation: its printed figures, ours, and the floors.

    Finished cells are kept and used by every table that needs them; the same command goes on where it was killed.

    Examples:
      efface reproduce table1 --data-root DIR --scale small

      efface reproduce all --scale smoke

      efface reproduce table1 --data-root DIR --scale small --seeds 3 --out results
    """
    from efface.experiments.paper import MAKERS
    from efface.experiments.paper import reproduce as make

    names = list(MAKERS) if what == ["all"] else what

    def tell(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    try:
        written = make(names, data_root, scale, out, seeds, set_ or [], not quiet, tell)
    except KeyboardInterrupt:
        errors.print("Interrupted. Finished cells and the last checkpoint are intact; go on with the same command.")
        raise typer.Exit(130) from None
    for path in written:
        if path.suffix in (".html", ".md"):
            console.print(f"Written: {path}", highlight=False, markup=False, soft_wrap=True)
