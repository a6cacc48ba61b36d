"""``efface report``: render again, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more folders of finished runs.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes. Default: report.html in the run, or comparison.html here.")
    ] = None,
) -> None:
    """Render the report of a run again; of several runs, a page that puts them side by side.

    Needs nothing but the run folders: no model, no data, no torch.

    Examples:
      efface report runs/mine

      efface report runs/mine runs/other --out comparison.html
    """
    from efface.report import render_comparison, render_report

    page = render_report(runs[0], out) if len(runs) == 1 else render_comparison(runs, out or Path("comparison.html"))
    console.print(f"Report: {page}", highlight=False, soft_wrap=True)
