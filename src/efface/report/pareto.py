"""The trade-off plot of a comparison: fidelity against excess leakage, with the front that nobody is above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from efface.report.formats import Number, percent, shortened
from efface.report.plots import RING
from efface.report.svg import blank, save_png, style
from efface.report.theme import LIGHT

SIZE = (760, 480)
"""Of the plot, in CSS pixels."""
APART = 15
"""Least distance of two labels from top to bottom, in CSS pixels."""


@dataclass(frozen=True)
class Point:
    """A method in the plane.

    Attributes:
        name: Label.
        runs: (excess leakage, fidelity) of each seed, fractions.
        reference: The original model: a hollow dot.
    """

    name: str
    runs: tuple[tuple[Number, Number], ...]
    reference: bool = False

    @property
    def leakage(self) -> float:
        """Mean excess leakage."""
        return sum(run[0] for run in self.runs) / len(self.runs)

    @property
    def fidelity(self) -> float:
        """Mean fidelity."""
        return sum(run[1] for run in self.runs) / len(self.runs)


def front(points: Sequence[Point]) -> list[str]:
    """Return the names of the points to which no other is preferable in both ways, from least leakage to most.

    Example:
        >>> kept, lost = Point("kept", ((0.1, 0.9),)), Point("lost", ((0.2, 0.8),))
        >>> front([lost, kept, Point("careless", ((0.9, 0.95),))])
        ['kept', 'careless']
    """
    chosen: list[str] = []
    highest = float("-inf")
    for point in sorted(points, key=lambda one: (one.leakage, -one.fidelity)):
        if point.fidelity > highest:
            chosen.append(point.name)
            highest = point.fidelity
    return chosen


def pareto_figure(points: Sequence[Point], best: Sequence[str] | None = None) -> Figure:
    """Draw a dot per method, a small one per seed, and the front as steps.

    Args:
        points: The methods.
        best: Names of those on the front; None: those that no other is preferable to by their means.
    """
    width, height = SIZE
    figure = blank(width, height)
    axes = figure.add_axes((74 / width, 58 / height, (width - 94) / width, (height - 78) / height))
    best = front(points) if best is None else best
    _frame(axes, points)
    line = front([point for point in points if point.name in best])
    _steps(axes, [point for name in line for point in points if point.name == name])
    for point in points:
        _dot(axes, point, point.name in best)
    _labels(axes, points, best)
    return figure


def save_pareto(points: Sequence[Point], path: Path, best: Sequence[str] | None = None) -> None:
    """Write the plot as ``path`` with the endings .svg and .png."""
    save_png(lambda: pareto_figure(points, best), path.with_suffix(".png"))
    with style():
        pareto_figure(points, best).savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None})


def _frame(axes: Axes, points: Sequence[Point]) -> None:
    for limits, values in (
        (axes.set_xlim, [run[0] for point in points for run in point.runs] + [0.0]),
        (axes.set_ylim, [run[1] for point in points for run in point.runs]),
    ):
        pad = max(0.08 * (max(values) - min(values)), 0.01)
        limits(min(values) - pad, max(values) + pad)
    axes.grid(axis="both")
    axes.set_xlabel("excess leakage: 0 % nothing beyond the task answer, 100 % as before", loc="right", labelpad=8)
    axes.set_ylabel("fidelity: task accuracy", loc="top", labelpad=8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        low, high = axis.get_view_interval()
        axis.set_major_formatter(FuncFormatter(lambda value, _, d=int(high - low < 0.06): percent(value, d)))


def _steps(axes: Axes, chosen: Sequence[Point]) -> None:
    """Draw what can be had at each leakage."""
    right = axes.get_xlim()[1]
    x = [point.leakage for point in chosen] + [right]
    y = [point.fidelity for point in chosen] + [chosen[-1].fidelity]
    axes.plot(x, y, drawstyle="steps-post", color=LIGHT["accent"], linewidth=1.4, zorder=2)


def _dot(axes: Axes, point: Point, best: bool) -> None:
    colour = LIGHT["accent"] if best else LIGHT["before"]
    if len(point.runs) > 1:
        axes.plot(*zip(*point.runs, strict=True), "o", color=colour, markersize=3, alpha=0.6, zorder=3, clip_on=False)
    look: dict[str, Any] = {"markersize": 8, **RING} if point.reference else {"markersize": 8, "color": colour}
    axes.plot([point.leakage], [point.fidelity], "o", zorder=4, clip_on=False, **look)


def _labels(axes: Axes, points: Sequence[Point], best: Sequence[str]) -> None:
    """Write the names beside the dots, towards the middle, none over another."""
    middle = sum(axes.get_xlim()) / 2
    for left in (True, False):
        taken: list[float] = []
        side = [point for point in points if (point.leakage < middle) == left]
        for point in sorted(side, key=lambda one: -one.fidelity):
            height = float(axes.transData.transform((point.leakage, point.fidelity))[1])
            # Above the line, where the dot is on it.
            wanted = height + (9 if point.name in best else 0)
            place = min([wanted, *(other - APART for other in taken[-1:])])
            taken.append(place)
            axes.annotate(
                shortened(point.name, 28),
                (point.leakage, point.fidelity),
                xytext=(11 if left else -11, place - height),
                textcoords="offset points",
                ha="left" if left else "right",
                va="center",
                fontsize=10.5,
                color=LIGHT["ink"] if point.name in best else LIGHT["muted"],
                fontweight="bold" if point.name in best else "normal",
            )


__all__ = ["Point", "front", "pareto_figure", "save_pareto"]
