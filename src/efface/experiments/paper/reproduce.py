"""What ``efface reproduce`` makes: a table or figure by name, from cells that are kept, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from efface.errors import ConfigError, Problems, did_you_mean, expected
from efface.experiments.folder import refuse_runs
from efface.experiments.paper import figure3, figure4, figure5, figure6, table1, table2, table3
from efface.experiments.paper.cells import Workshop
from efface.experiments.paper.page import Page
from efface.experiments.paper.plan import Plan, datasets_of_grid
from efface.experiments.paper.printed import DATASETS
from efface.experiments.paper.scales import SCALES, Scale
from efface.experiments.paper.tasks import Task, find_tasks

MAKERS: dict[str, Callable[[Plan, Workshop], Page]] = {
    "table1": table1.make,
    "table2": table2.make,
    "table3": table3.make,
    "figure3": figure3.make,
    "figure4": figure4.make,
    "figure5": figure5.make,
    "figure6": figure6.make,
}
"""By name, in the paper's order."""


def needed(name: str, scale: Scale) -> tuple[str, ...]:
    """Return the paper's data sets that a table or figure reads."""
    if name == "figure6":
        return datasets_of_grid(scale.grid)
    return (table2.DATASET,) if name == "table2" else DATASETS


def reproduce(
    names: Sequence[str],
    root: Path | None,
    scale: str = "small",
    out: Path | None = None,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    progress: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Make tables and figures; finished cells are kept, unfinished ones go on where they were.

    Args:
        names: Of ``MAKERS``.
        root: Folder with a folder per data set; not needed for drawn faces.
        scale: smoke, small or paper.
        out: Folder for cells, runs and pages; None: ``reproduction/SCALE``.
        seeds: Every cell is made with so many, from 0 on.
        overrides: ``section.name=value`` on top of the scale's settings.
        progress: Whether progress bars are shown.
        tell: Hears which cell is made.

    Returns:
        The files that were written.

    Raises:
        ConfigError: A name is unknown, or data are not there; all problems at once.
    """
    chosen = _check(names, root, scale, seeds)
    datasets = tuple(dict.fromkeys(d for name in names for d in needed(name, chosen)))
    tasks = find_tasks(None if chosen.drawn else root, datasets)
    folder = out or Path("reproduction") / scale
    if folder.exists() and not folder.is_dir():
        raise ConfigError(expected("--out", "a folder", str(folder)))
    refuse_runs(folder)
    plan = Plan(chosen, tasks, tuple(range(seeds)), tuple(overrides))
    written: list[Path] = []
    for name in names:
        shop = Workshop(folder, _command(name, chosen, seeds, overrides), progress, tell)
        page = MAKERS[name](replace(plan, tasks=_of(plan, name)), shop)
        written += page.write(folder)
    return written


def _of(plan: Plan, name: str) -> dict[str, Task]:
    wanted = needed(name, plan.scale)
    return {dataset: task for dataset, task in plan.tasks.items() if dataset in wanted}


def _check(names: Sequence[str], root: Path | None, scale: str, seeds: int) -> Scale:
    problems = Problems(ConfigError)
    for name in names:
        if name not in MAKERS:
            problems.add(expected("what", "a table or figure", name, did_you_mean(name, MAKERS)))
    if not names:
        problems.add(expected("what", "one or more tables or figures", "nothing", f"Valid names: {', '.join(MAKERS)}."))
    if scale not in SCALES:
        problems.add(expected("--scale", "smoke, small or paper", scale, did_you_mean(scale, SCALES)))
    elif root is None and any(needed(name, SCALES[scale]) for name in names) and not SCALES[scale].drawn:
        hint = "It holds a folder per data set: fairface or utkface, celeba, cifar10. Without data, try --scale smoke."
        problems.add(expected("--data-root", "given at this scale", None, hint))
    if seeds < 1:
        problems.add(expected("--seeds", "an integer larger than 0", seeds))
    problems.raise_if_any()
    return SCALES[scale]


def _command(name: str, scale: Scale, seeds: int, overrides: Sequence[str]) -> str:
    """Return the command as one types it, without this machine's paths."""
    root = "" if scale.drawn else " --data-root DIR"
    more = "".join(f" --set '{setting}'" for setting in overrides)
    return f"efface reproduce {name}{root} --scale {scale.name} --seeds {seeds}{more}"
