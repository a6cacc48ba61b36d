"""Training curves: which metrics share a panel, and how a panel is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from efface.report.formats import Number, is_number, percent, shortened
from efface.report.svg import blank
from efface.report.theme import LIGHT, SERIES

PANELS = {
    "fidelity": ("Fidelity", "task accuracy"),
    "removal_accuracy": ("Removal head", "accuracy on the attribute"),
    "removal_bits": ("Removal head", "bits about the attribute"),
    "target_bits": ("Task head", "bits about the task"),
    "reconstruction_nats": ("Reconstruction", "nats per image, lower is better"),
    "penalty_nats": ("Removal penalty", "nats per image, unweighted"),
    "loss": ("Losses", ""),
    "removal_weight": ("Removal weight", "warm-up"),
    "lr": ("Learning rate", ""),
    "norm": ("Gradient norms", "per block, before clipping"),
}
"""Known metric families, in the order of the page: title and unit. A family is what precedes ``/`` in a name."""

MOST_POINTS = 240
MOST_PANELS = 12
SIZE = (320, 212)
"""Of a panel, in CSS pixels."""


@dataclass
class Curve:
    """One line: ``steps`` are epochs."""

    label: str
    original: bool
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """The curves of one metric family on one split.

    Attributes:
        family: What precedes ``/`` in the metric names.
        split: train or validation.
        curves: Lines by (model, part after ``/``).
    """

    family: str
    split: str
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return title and split."""
        name = PANELS.get(self.family, (self.family.replace("_", " "), ""))[0]
        return f"{name}, {self.split}"

    @property
    def unit(self) -> str:
        """Return what the vertical axis shows."""
        return PANELS.get(self.family, ("", ""))[1]

    @property
    def as_percent(self) -> bool:
        """Tell whether the values are accuracies."""
        return self.family in ("fidelity", "removal_accuracy") or self.family.endswith("accuracy")

    @property
    def alt(self) -> str:
        """Return the figure in words: where each line starts and ends."""
        show = percent if self.as_percent else "{:.3g}".format
        told = [
            f"{curve.label} from {show(curve.values[0])} to {show(curve.values[-1])} at epoch {curve.epochs[-1]:g}"
            for curve in self.curves.values()
        ]
        return f"{self.title} ({self.unit or 'value'}): {'; '.join(told)}.".replace(" (value)", "")


def panels(metrics: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """Sort the lines of metrics.jsonl into panels: known families first, at most `MOST_PANELS`.

    Non-finite values are left out. Several parts of one family (losses, attributes) share a panel.
    """
    found: dict[tuple[str, str], Panel] = {}
    for line in metrics:
        split, model, epoch = str(line.get("split", "train")), str(line.get("model", "")), line.get("epoch")
        for name, value in line["metrics"].items():
            if is_number(value) and is_number(epoch):
                family, _, part = name.partition("/")
                panel = found.setdefault((family, split), Panel(family, split))
                curve = panel.curves.setdefault((model, part), Curve(_label(model, part), model == "original"))
                curve.epochs.append(float(epoch))
                curve.values.append(float(value))
    order = {family: place for place, family in enumerate(PANELS)}
    for panel in found.values():
        panel.curves = dict(sorted(panel.curves.items(), key=lambda item: item[1].original))
    ranked = sorted(
        found.values(), key=lambda panel: (order.get(panel.family, len(order)), panel.split != "validation")
    )
    return ranked[:MOST_PANELS]


def panel_figure(panel: Panel) -> Figure:
    """Draw one panel for the page."""
    figure = blank(*SIZE)
    width, height = SIZE
    below = 38 + 18 * _key_rows(panel)
    box = (52 / width, below / height, (width - 62) / width, (height - below - 8) / height)
    axes = figure.add_axes(box)
    draw_panel(axes, panel)
    _key(figure, panel)
    return figure


def training_figure(chosen: list[Panel], columns: int = 3) -> Figure:
    """Draw all panels in one figure, for figures/training.png."""
    rows = -(-len(chosen) // columns)
    figure = blank(columns * SIZE[0], rows * (SIZE[1] + 24))
    for panel, part in zip(chosen, figure.subfigures(rows, columns, squeeze=False).flat, strict=False):
        axes = part.add_axes((0.16, 0.33, 0.8, 0.53))
        draw_panel(axes, panel)
        axes.set_title(panel.title, fontsize=11, fontweight="bold", loc="left")
        part.legend(handles=_handles(panel), loc="lower left", ncols=2, fontsize=9, bbox_to_anchor=(0.14, 0.02))
    return figure


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw the lines of a panel."""
    for curve, handle in zip(panel.curves.values(), _handles(panel), strict=True):
        epochs, values = thinned(curve.epochs, curve.values)
        look: dict[str, Any] = {"color": handle.get_color(), "linestyle": handle.get_linestyle()}
        marker = "o" if len(epochs) == 1 else ""
        axes.plot(epochs, values, marker=marker, markersize=5, **look)
    axes.grid(axis="y")
    axes.set_xlabel("epoch", loc="right", labelpad=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02, y=0.12)
    if panel.as_percent:
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 1.02))
        digits = 0 if high - low > 0.04 else 1
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, digits)))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def thinned(
    epochs: Sequence[Number], values: Sequence[Number], most: int = MOST_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points, so that at most ``most`` are left; the last value stays as it is.

    Example:
        >>> thinned([1, 2, 3, 4], [0, 2, 4, 6], most=2)
        (array([1.5, 4. ]), array([1., 6.]))
    """
    x, y = np.asarray(epochs, float), np.asarray(values, float)
    if len(x) <= most:
        return x, y
    groups = np.array_split(np.arange(len(x)), most)
    x_mean, y_mean = (np.array([series[group].mean() for group in groups]) for series in (x, y))
    x_mean[-1], y_mean[-1] = x[-1], y[-1]
    return x_mean, y_mean


def _label(model: str, part: str) -> str:
    return f"{part}, {model}" if part and model == "original" else part or model


def _handles(panel: Panel) -> list[Line2D]:
    """One legend entry per line: the original is grey and dashed, parts have a colour each."""
    parts = list(dict.fromkeys(part for _, part in panel.curves))
    handles = []
    for (_, part), curve in panel.curves.items():
        several = len(parts) > 1
        colour = SERIES[parts.index(part) % len(SERIES)]
        if curve.original and not several:
            colour = LIGHT["before"]
        handles.append(
            Line2D(
                [], [], color=colour, linestyle=(0, (4, 2)) if curve.original else "-", label=shortened(curve.label, 22)
            )
        )
    return handles


def _key_rows(panel: Panel) -> int:
    return -(-len(panel.curves) // 2)


def _key(figure: Figure, panel: Panel) -> None:
    figure.legend(
        handles=_handles(panel),
        loc="lower left",
        bbox_to_anchor=(46 / SIZE[0], 0),
        ncols=2,
        fontsize=10.5,
        labelcolor=LIGHT["muted"],
        borderaxespad=0,
        borderpad=0.1,
        handlelength=1.8,
        columnspacing=1.2,
        labelspacing=0.35,
    )
