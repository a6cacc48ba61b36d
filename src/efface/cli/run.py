"""``efface run``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.app import app, console, errors
from efface.cli.options import Data, Preset, Quiet, Settings, overrides


@app.command()
def run(
    config: Preset,
    data: Data = None,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/NAME, numbered if taken.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run was, equal to the bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    target_leakage: Annotated[
        float | None,
        typer.Option(help="Set the removal weight to reach this excess leakage, such as 0.02, on validation people."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train the original model, unlearn the attributes, attack both with fresh attackers, write the report.

    Everything goes into one run folder: config.yaml, metrics.jsonl, model.safetensors (the original architecture's own
    keys; a layer at the cut adds LAYER.release.…), audit.json, report.html, README.md (a model card).

    Examples:
      efface run toyfaces-smiling-glasses

      efface run utkface-gender-race --data DIR

      efface run my.yaml --set engine.epochs=5 --set method.removal_weight=2 --out runs/mine --resume

      efface run toyfaces-smiling-glasses --target-leakage 0.05
    """
    from efface.experiments import find_config
    from efface.experiments import run as make_run

    settings = find_config(config, overrides(data, set_))
    try:
        how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "progress": not quiet, "console": console}
        if target_leakage is None:
            result = make_run(settings, out, **how)
        else:
            from efface.experiments.target import run_to_target

            result = run_to_target(settings, target_leakage, out, **how)
    except KeyboardInterrupt:
        errors.print("Interrupted. The last checkpoint is intact; go on with the same command and --resume.")
        raise typer.Exit(130) from None
    console.print(result.audit.summary(), highlight=False, markup=False)
    console.print(f"Report: {result.report}", highlight=False, markup=False, soft_wrap=True)
