"""The drawings of figure 6: heat maps with a phase line, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from efface.experiments.paper.scales import Grid
from efface.report.svg import blank
from efface.report.theme import LIGHT


@runtime_checkable
class Measured(Protocol):
    """A choice of weights with its figures."""

    @property
    def weights(self) -> tuple[float, float, float]:
        """λ1, λ2, λ3."""

    @property
    def fidelity(self) -> float:
        """A fraction."""

    @property
    def aum(self) -> float:
        """A fraction."""

    @property
    def excess(self) -> float | None:
        """A share."""


def heat_maps(points: Sequence[Measured], grid: Grid) -> Figure:
    """Draw AUM over λ2 × λ3, a map per λ1, and the line λ3 = λ1 on each."""
    rows, columns = len(grid.target_weights), len(grid.removal_weights)
    wide, high = max(220, 58 * columns), max(90, 34 * rows)
    width, height = 2 * (wide + 70) + 24, high + 112
    made = blank(width, height)
    values = [point.aum for point in points]
    pad = max(0.005, 0.05 * (max(values) - min(values)))
    norm = Normalize(min(values) - pad, max(values) + pad)
    colours = LinearSegmentedColormap.from_list("aum", [LIGHT["accent-soft"], LIGHT["accent"]])
    for place, input_weight in enumerate(grid.input_weights):
        left = (60 + place * (wide + 70)) / width
        axes = made.add_axes((left, 66 / height, wide / width, high / height))
        chosen = {point.weights[1:]: point.aum for point in points if point.weights[0] == input_weight}
        table = np.array([[chosen[t, r] for r in grid.removal_weights] for t in grid.target_weights])
        axes.imshow(table, cmap=colours, norm=norm, aspect="auto", origin="lower")
        _label(axes, table, norm, grid)
        axes.set_title(f"λ1 = {input_weight:g}", fontsize=11, loc="left")
        _phase_line(axes, input_weight, grid.removal_weights)
    note = "Dashed: λ3 = λ1; right of it the theory predicts that the attribute is dropped."
    made.text(60 / width, 14 / height, note, fontsize=10, color=LIGHT["muted"])
    return made


def _label(axes: Axes, table: np.ndarray, norm: Normalize, grid: Grid) -> None:
    for (row, column), value in np.ndenumerate(table):
        colour = LIGHT["surface"] if norm(value) > 0.5 else LIGHT["ink"]
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=10, color=colour)
    axes.set_xticks(range(len(grid.removal_weights)), [f"{value:g}" for value in grid.removal_weights])
    axes.set_yticks(range(len(grid.target_weights)), [f"{value:g}" for value in grid.target_weights])
    axes.set_xlabel("λ3")
    axes.set_ylabel("λ2")
    axes.spines["bottom"].set_visible(False)


def _phase_line(axes: Axes, threshold: float, columns: Sequence[float]) -> None:
    """Draw the line where it falls between columns that stand for logarithmic steps."""
    axes.axvline(place_of(threshold, columns), color=LIGHT["floor"], linestyle="--", linewidth=2)


def place_of(value: float, columns: Sequence[float]) -> float:
    """Return where a value falls among columns drawn at 0, 1, 2, …, by logarithm between two of them.

    Example:
        >>> place_of(0.1, [0.01, 1.0, 8.0]), place_of(0.001, [0.01, 1.0]), place_of(100.0, [0.01, 1.0])
        (0.5, -0.5, 1.5)
    """
    if value < columns[0]:
        return -0.5
    if value > columns[-1]:
        return len(columns) - 0.5
    logarithms = [math.log(column) for column in columns]
    return float(np.interp(math.log(value), logarithms, range(len(columns))))


def front_figure(points: Sequence[Measured], front: Sequence[Measured], title: str = "") -> Figure:
    """Draw every choice as a dot, and a line through those that no other beats."""
    made = blank(560, 380)
    axes = made.add_axes((0.13, 0.15, 0.83, 0.76))
    known = [point for point in points if point.excess is not None]
    if not known:
        axes.text(
            0.5, 0.5, "The original model leaks nothing: no excess leakage.", ha="center", transform=axes.transAxes
        )
    x, y = [point.excess or 0.0 for point in known], [point.fidelity for point in known]
    axes.plot(x, y, "o", color=LIGHT["before"], markersize=6, alpha=0.7)
    if front:
        best = [(point.excess or 0.0, point.fidelity) for point in front]
        axes.plot(*zip(*best, strict=True), "o-", color=LIGHT["accent"], markersize=8, label="front")
        axes.legend(loc="lower right", fontsize=10)
    axes.set_xlabel("excess leakage (0: nothing beyond what the label says; 1: as the original)")
    axes.set_ylabel("fidelity")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid()
    axes.margins(0.06)
    return made
