"""What a sweep searches: a preset, ranges of its settings, and the cells that trials are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from efface.config import Config
from efface.errors import ConfigError, Problems, expected
from efface.experiments.folder import refuse_runs
from efface.experiments.paper.cells import Cell, Workshop, portable
from efface.experiments.presets import find_config
from efface.experiments.runner import refuse_several_processes

AUDIT = (
    "audit.suite=quick",
    "audit.attackers=null",
    "audit.split=validation",
    "audit.beyond=[]",
    "audit.layers=[]",
    "audit.reconstruction=false",
)
"""Settings are chosen on validation; test is not read."""


@dataclass(frozen=True)
class Range:
    """A setting that is searched, on a logarithmic scale.

    Attributes:
        name: ``section.name``.
        low: Least value, above 0.
        high: Greatest.
    """

    name: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read ``section.name=low:high``.

        Raises:
            ConfigError: It is not of this form, or the limits are no range above 0.

        Example:
            >>> Range.parse("method.removal_weight=1:64")
            Range(name='method.removal_weight', low=1.0, high=64.0)
        """
        name, _, limits = text.partition("=")
        low, _, high = limits.partition(":")
        try:
            found = cls(name.strip(), float(low), float(high))
        except ValueError:
            found = cls("", 0.0, 0.0)
        if not found.name or not 0 < found.low < found.high:
            hint = "For example: --search method.removal_weight=1:64"
            raise ConfigError(expected("--search", "NAME=LOW:HIGH with 0 < LOW < HIGH", text, hint))
        return found


SEARCHED = (
    Range("method.input_weight", 1e-4, 3e-2),
    Range("method.target_weight", 0.5, 32.0),
    Range("method.removal_weight", 1.0, 64.0),
)


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where.

    Attributes:
        preset: Name or file.
        overrides: The user's ``section.name=value``.
        folder: Of study, cells and pages.
        ranges: What is searched.
        trials: Finished and pruned ones that are wanted in all.
        progress: Whether progress bars are shown.
    """

    preset: str
    overrides: tuple[str, ...]
    folder: Path
    ranges: tuple[Range, ...] = SEARCHED
    trials: int = 40
    progress: bool = True

    def config(self, values: Mapping[str, float] | None = None, epochs: int | None = None) -> Config:
        """Return the settings of a trial; without values, the preset's own."""
        chosen = [f"{name}={value!r}" for name, value in (values or {}).items()]
        found = find_config(self.preset, [*AUDIT, *self.overrides, *chosen])
        if found.method.preserve:
            found = found.updated(["audit.beyond=[selectivity]"])
        if epochs is None:
            return found
        # The original is the same at every rung.
        whole = found.engine.original_epochs or found.engine.epochs
        return found.updated([f"engine.epochs={epochs}", f"engine.original_epochs={whole}"])

    def cell(self, values: Mapping[str, float], epochs: int) -> Cell:
        """Return a rung of a trial.

        The preset's own weights, fully trained, are audited beside the original; so is every trial where columns are
        to be kept, for what is left of them is a share of what the original tells.
        """
        config = self.config(values, epochs)
        first = dict(values) == self.start() and epochs == self.config().engine.epochs
        return Cell("trial", config, beside_original=first or bool(config.method.preserve))

    def start(self) -> dict[str, float]:
        """Return the preset's own values of what is searched, drawn into the ranges."""
        values = portable(self.config())
        found = {}
        for one in self.ranges:
            section, _, name = one.name.partition(".")
            found[one.name] = min(max(float(values[section][name]), one.low), one.high)
        return found

    def check(self) -> None:
        """Refuse settings that can't be searched; all at once.

        Raises:
            ConfigError: With the problems.
        """
        problems, values = Problems(ConfigError), portable(self.config())
        problems.attempt(lambda: refuse_several_processes(self.config()))
        if self.trials < 1:
            problems.add(expected("--trials", "an integer larger than 0", self.trials))
        for one in self.ranges:
            section, _, name = one.name.partition(".")
            value = values.get(section, {}).get(name) if isinstance(values.get(section), dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float):
                problems.add(expected("--search", "the name of a setting that is a number", one.name))
        if self.folder.exists() and not self.folder.is_dir():
            problems.add(expected("--out", "a folder", str(self.folder)))
        problems.attempt(lambda: refuse_runs(self.folder))
        problems.raise_if_any()

    def workshop(self, tell: Callable[[str], None] = lambda _: None) -> Workshop:
        """Return where cells are made."""
        return Workshop(self.folder, f"efface sweep {Path(self.preset).name}", self.progress, tell)


def parse_ranges(texts: Sequence[str]) -> tuple[Range, ...]:
    """Read ``--search``, all problems at once; nothing given: the three weights.

    Raises:
        ConfigError: With the problems.
    """
    problems, found = Problems(ConfigError), []
    for text in texts:
        try:
            found.append(Range.parse(text))
        except ConfigError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return tuple(found) or SEARCHED


__all__ = ["SEARCHED", "Range", "Sweep", "parse_ranges"]
