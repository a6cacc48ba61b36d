"""``efface audit``: attack a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    split: Annotated[
        str | None, typer.Option(help="People to attack: test or validation. Default: as configured.")
    ] = None,
    attackers: Annotated[
        str | None, typer.Option(help="Names, separated by commas (efface ls attackers). Default: as configured.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Most epochs of an attacker. Default: as configured.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Attack a finished run again with fresh attackers, and renew audit.json and the report.

    Examples:
      efface audit runs/mine --split test
    """
    from efface.experiments import audit_again

    settings: dict[str, object] = {}
    if attackers is not None:
        settings["attackers"] = [name.strip() for name in attackers.split(",") if name.strip()]
    if epochs is not None:
        settings["epochs"] = epochs
    result = audit_again(run, split=split, progress=not quiet, **settings)
    console.print(result.audit.summary(), highlight=False, markup=False)
    console.print(f"Report: {result.report}", highlight=False, soft_wrap=True)
