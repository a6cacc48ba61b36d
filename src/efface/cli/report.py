"""``efface report``: render again, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console
from efface.errors import ConfigError, Problems, did_you_mean, expected

FORMATS = ("html", "md", "text")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more folders of finished runs.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes. Default: report.html in the run, or comparison.html here.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="html, md (Markdown) or text; one run only.")] = "html",
) -> None:
    """Render the report of a run again; of several runs, a page that puts them side by side.

    Needs nothing but the run folders: no model, no data, no torch.

    Examples:
      efface report runs/mine

      efface report runs/mine --format md

      efface report runs/mine runs/other --out comparison.html
    """
    from efface.report import render_comparison, render_report, write_document

    problems = Problems(ConfigError)
    if format_ not in FORMATS:
        problems.add(expected("--format", "html, md or text", format_, did_you_mean(format_, FORMATS)))
    elif format_ != "html" and len(runs) > 1:
        problems.add(expected("--format", "html for several runs", format_))
    problems.raise_if_any()
    if format_ != "html":
        page = write_document(runs[0], format_, out)
    elif len(runs) == 1:
        page = render_report(runs[0], out)
    else:
        page = render_comparison(runs, out or Path("comparison.html"))
    console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)
