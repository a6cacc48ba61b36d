"""What the paper trains on, and what stands in for it where it can't be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from efface.errors import ConfigError, Problems, expected
from efface.experiments.paper.printed import DATASETS, NAMES

TOYFACES = "toyfaces"


@dataclass(frozen=True)
class Task:
    """A data set of the paper, as it is read here.

    Attributes:
        dataset: Of the paper: fairface, celeba or cifar10.
        preset: Preset with the settings that suit it.
        source: Folder, or toyfaces.
        columns: Column by the paper's attribute.
        settings: ``section.name=value`` on top of the preset.
        note: What stands in for the paper's data, or an empty string.
    """

    dataset: str
    preset: str
    source: str
    columns: Mapping[str, str]
    settings: tuple[str, ...] = ()
    note: str = ""

    @property
    def shown(self) -> str:
        """Name of what is read."""
        return Path(self.source).name


@dataclass(frozen=True)
class Stand:
    """A way to have a data set of the paper."""

    folder: str
    preset: str
    columns: Mapping[str, str]
    note: str = ""
    settings: tuple[str, ...] = field(default=())


_MALE = {name: name for name in ("Male", "Mustache", "Big_Nose")}
_FOLDER = ("data.options={}",)
"""A preset may name the hub and its options; a folder takes none."""
REAL: dict[str, tuple[Stand, ...]] = {
    "fairface": (
        Stand("fairface", "fairface-gender-race", {"race": "race", "age": "age"}, settings=_FOLDER),
        Stand(
            "utkface",
            "utkface-gender-race",
            {"race": "race", "age": "age_bin"},
            "UTKFace (5 races, 9 bins of age) stands in for Fairface, whose folder `fairface` is not there",
            _FOLDER,
        ),
    ),
    "celeba": (Stand("celeba", "celeba-smiling-male", _MALE, settings=_FOLDER),),
    "cifar10": (Stand("cifar10", "cifar10-living-class", {"class": "label"}, settings=_FOLDER),),
}
"""By data set of the paper, the first that is there wins."""

_DRAWN = "toyfaces-smiling-glasses"
DRAWN: dict[str, Stand] = {
    "fairface": Stand(
        TOYFACES,
        _DRAWN,
        {"race": "skin_tone", "age": "age_lines"},
        "drawn faces stand in for Fairface: smiling for gender, skin tone for race, lines for age",
    ),
    "celeba": Stand(
        TOYFACES,
        _DRAWN,
        {"Male": "glasses", "Mustache": "hat", "Big_Nose": "hair_colour"},
        "drawn faces stand in for CelebA: glasses for Male, hat for Mustache, hair for Big Nose",
    ),
    "cifar10": Stand(
        TOYFACES,
        _DRAWN,
        {"class": "hair_colour"},
        "drawn faces stand in for Cifar10: hat for living, hair colour for class, which determines it as class does "
        "living",
        ("data.target=hat", "data.options.correlation={'hat:hair_colour': 1.0}"),
    ),
}
"""What the smoke scale draws in place of each."""


def find_tasks(root: Path | None, datasets: tuple[str, ...] = DATASETS) -> dict[str, Task]:
    """Return the tasks, read from a folder that holds a folder per data set.

    Args:
        root: The folder; None: drawn faces for all.
        datasets: Of the paper.

    Raises:
        ConfigError: A data set is not there; all at once.

    Example:
        >>> find_tasks(None, ("celeba",))["celeba"].columns["Male"]
        'glasses'
    """
    if root is None:
        return {dataset: _task(dataset, DRAWN[dataset], TOYFACES) for dataset in datasets}
    problems, found = Problems(ConfigError), {}
    if not root.is_dir():
        problems.add(expected("--data-root", "a folder with a folder per data set", str(root)))
        problems.raise_if_any()
    for dataset in datasets:
        there = [stand for stand in REAL[dataset] if (root / stand.folder).is_dir()]
        if not there:
            wanted = " or ".join(f"`{stand.folder}`" for stand in REAL[dataset])
            problems.add(
                f"No data for {NAMES[dataset]}: {str(root)!r} holds no folder {wanted}. Layouts: docs/data.md. "
                "Without data, try --scale smoke."
            )
            continue
        found[dataset] = _task(dataset, there[0], str(root / there[0].folder))
    problems.raise_if_any()
    return found


def _task(dataset: str, stand: Stand, source: str) -> Task:
    return Task(dataset, stand.preset, source, stand.columns, stand.settings, stand.note)
