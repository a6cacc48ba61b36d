"""``efface compare``: every method under one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console, errors
from efface.cli.options import Data, Preset, Quiet, Settings, overrides
from efface.errors import ConfigError, did_you_mean, expected

SUITES = ("quick", "standard", "full")


@app.command()
def compare(
    config: Preset,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Names (efface ls methods) separated by commas; or all. Default: all variants, else all.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of methods with settings of their own: {NAME: {name: METHOD, …}}.", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How often: seeds of data, weights and attackers.")] = 3,
    suite: Annotated[
        str | None, typer.Option(help="Attackers that all meet: quick, standard (default) or full.", show_default=False)
    ] = None,
    data: Data = None,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder. Default: comparisons/NAME.")] = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(
            help="A leaderboard.json of the same comparison (other seeds, another machine): its rows are not made "
            "again. May be repeated.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished, and make the rest.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the comparison in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run every method on a preset under one budget; write one table and one trade-off plot.

    All methods start from one original per seed, train for the same epochs, and meet the same attackers. Each has the
    preset's settings, those that suit it where it names some, and those of --set.

    Examples:
      efface compare toyfaces-smiling-glasses --seeds 1

      efface compare utkface-gender-race --data DIR --methods detachment,leace,adversarial

      efface compare toyfaces-smiling-glasses --variants widths.yaml --seeds 1

      efface compare toyfaces-smiling-glasses --resume

      efface compare toyfaces-smiling-glasses --seeds 2 --join elsewhere/leaderboard.json
    """
    from efface.experiments.compare import compare as make_comparison
    from efface.experiments.presets import find_config
    from efface.experiments.variants import read_variants

    if suite is not None and suite not in SUITES:
        raise ConfigError(expected("--suite", "quick, standard or full", suite, did_you_mean(suite, SUITES)))
    own = overrides(data, set_)
    settings = find_config(config, own)
    known = {} if variants is None else read_variants(variants)
    try:
        board, folder = make_comparison(
            settings,
            methods if methods is not None else list(known) or "all",
            seeds,
            out,
            variants=known,
            suite=suite,
            overrides=own,
            join=join or (),
            resume=resume,
            overwrite=overwrite,
            progress=not quiet,
            console=console,
        )
    except KeyboardInterrupt:
        errors.print("Interrupted. What is finished is kept; go on with the same command and --resume.")
        raise typer.Exit(130) from None
    console.print(board.to_markdown(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Leaderboard: {folder / 'leaderboard.json'}", highlight=False, markup=False, soft_wrap=True)
    if not board.rows:
        raise typer.Exit(1)
