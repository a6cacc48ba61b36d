"""Alternating samples: every round measures every variant once, and watches what else the machine is doing meanwhile.

A variant is compared with its neighbours in time: a machine that slows down slows all of them. The first round warms up
and is thrown away. A sample beside which other work held a part of a core is kept, marked, and left out of the median.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from efface.engine.threads import busy_seconds, own_seconds

QUIET = 0.15
"""Cores that other work may hold beside a sample that counts."""


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Attributes:
        name: Short, for tables and ratios.
        about: What it is.
        measure: Makes one sample: seconds (or what ``unit`` says). Processes that it starts and waits for are its own.
    """

    name: str
    about: str
    measure: Callable[[], float]


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Attributes:
        value: In the unit of the benchmark.
        others: Cores that other work held on average, meanwhile.
        disturbed: Whether that is more than a quiet machine shows.
    """

    value: float
    others: float
    disturbed: bool


@dataclass(frozen=True)
class Series:
    """All samples of a variant, in the order of the rounds."""

    variant: Variant
    samples: list[Sample] = field(default_factory=list)

    @property
    def counted(self) -> list[float]:
        """Values that count: the undisturbed ones; all, where none was left in peace."""
        quiet = [sample.value for sample in self.samples if not sample.disturbed]
        return quiet or [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        """Of the values that count."""
        return median(self.counted)

    def to_json(self) -> dict[str, Any]:
        """Return name, median, spread and every sample."""
        disturbed = sum(sample.disturbed for sample in self.samples)
        return {
            "about": self.variant.about,
            "median": self.median,
            "low": min(self.counted),
            "high": max(self.counted),
            "disturbed": disturbed,
            "samples": [
                {"value": s.value, "others": round(s.others, 2), "disturbed": s.disturbed} for s in self.samples
            ],
        }


def alternate(
    variants: Sequence[Variant], rounds: int, tell: Callable[[str], None] | None = None, warm_up: bool = True
) -> dict[str, Series]:
    """Measure every variant once a round; one round more than asked for warms up.

    Args:
        variants: With different names.
        rounds: Samples of each variant.
        tell: Hears of the progress.
        warm_up: False where every sample warms up by itself: no round is thrown away.

    Example:
        >>> found = alternate([Variant("one", "", lambda: 1.0), Variant("two", "", lambda: 2.0)], rounds=3)
        >>> found["two"].median / found["one"].median, len(found["one"].samples)
        (2.0, 3)
    """
    series = {variant.name: Series(variant) for variant in variants}
    for number in range(0 if warm_up else 1, rounds + 1):
        for variant in variants:
            if tell is not None:
                tell(f"{'Warm-up' if not number else f'Round {number} of {rounds}'}: {variant.name}")
            sample = watched(variant)
            if number:
                series[variant.name].samples.append(sample)
    return series


def watched(variant: Variant) -> Sample:
    """Return one sample of a variant, with the load that other work was meanwhile."""
    busy, own, begun = busy_seconds(nice=True), own_seconds(), time.perf_counter()
    value = variant.measure()
    passed = time.perf_counter() - begun
    others = max(0.0, (busy_seconds(nice=True) - busy - (own_seconds() - own)) / max(passed, 1e-9))
    return Sample(value, others, others > QUIET)


def ratio(series: Mapping[str, Series], slow: str, fast: str) -> dict[str, float]:
    """Return how many times as fast ``fast`` is: of the medians, and the lowest and highest of one round.

    Example:
        >>> found = alternate([Variant("a", "", lambda: 3.0), Variant("b", "", lambda: 2.0)], rounds=2)
        >>> ratio(found, "a", "b")["median"]
        1.5
    """
    pairs = zip(series[slow].samples, series[fast].samples, strict=True)
    each = [a.value / b.value for a, b in pairs if not (a.disturbed or b.disturbed)]
    middle = series[slow].median / series[fast].median
    return {"median": middle, "low": min(each, default=middle), "high": max(each, default=middle)}
