"""``efface sweep``: a search for weights by several processes that join one study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console, errors
from efface.cli.options import Data, Preset, Quiet, overrides


@app.command()
def sweep(
    preset: Preset,
    workers: Annotated[int, typer.Option(help="Processes of this call; cores are shared out.")] = 1,
    trials: Annotated[int, typer.Option(help="Trials in all, finished or cut short, by whoever joins.")] = 40,
    data: Data = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW:HIGH", help="A setting to search, logarithmically. Default: the method's three weights."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of all trials. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study. Default: sweeps/PRESET.")] = None,
    quiet: Quiet = False,
) -> None:
    """Search weights for the best trade-offs of fidelity and leakage, on validation; export them as presets.

    The same command in a second terminal, or on a machine that shares the folder, joins the study; a killed one goes on
    by it. The first trial is the preset's own.

    Examples:
      efface sweep cifar10-living-class --data DIR --workers 2 --trials 40

      efface sweep my.yaml --search method.removal_weight=1:100 --out sweeps/mine
    """
    from efface.experiments.sweep import sweep as make
    from efface.experiments.sweep_plan import Sweep, parse_ranges

    folder = out or Path("sweeps") / Path(preset).stem
    plan = Sweep(preset, tuple(overrides(data, set_)), folder, parse_ranges(search or []), trials, not quiet)

    def tell(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    try:
        written = make(plan, workers, tell)
    except KeyboardInterrupt:
        errors.print("Interrupted. The study and the last checkpoints are intact; go on with the same command.")
        raise typer.Exit(130) from None
    for path in written:
        if path.suffix in (".html", ".md", ".yaml"):
            console.print(f"Written: {path}", highlight=False, markup=False, soft_wrap=True)
