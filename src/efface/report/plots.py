"""The figures of a report: attackers against floor and ceiling, and reconstructions. Training curves: `curves`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from efface.report.formats import Number, is_number, percent, shortened
from efface.report.svg import blank
from efface.report.theme import LIGHT

WIDE, NARROW = 860, 340
"""Widths of a figure for a desk and for a phone, in CSS pixels."""

ROWS = {"images": "image", "original": "from original\nfeatures", "unlearned": "from unlearned\nfeatures"}
"""Rows of the reconstructions, from top to bottom."""

LONGEST = 16
"""Characters of an attacker's name that are shown."""

REFERENCES = {"chance": (0, (1, 2.5)), "majority": (0, (5, 3)), "label": "solid"}
"""Line styles of the floors."""

RING: dict[str, Any] = {"markerfacecolor": LIGHT["surface"], "markeredgecolor": LIGHT["before"], "markeredgewidth": 1.8}
"""The original model: a hollow dot."""

_FROM_LEFT = ("axes fraction", "data")

NAMES = {"chance": "chance", "majority": "majority", "label": "label floor"}


@dataclass(frozen=True)
class Room:
    """A figure's width and margins, in CSS pixels."""

    width: Number
    left: Number
    right: Number
    top: Number
    bottom: Number

    def axes(self, height: Number) -> tuple[Figure, Axes]:
        """Return a figure and axes of this height within the margins."""
        whole = self.top + height + self.bottom
        figure = blank(self.width, whole)
        wide = self.width - self.left - self.right
        box = (self.left / self.width, self.bottom / whole, wide / self.width, height / whole)
        return figure, figure.add_axes(box)


@dataclass(frozen=True)
class Dot:
    """A row of a dot plot.

    Attributes:
        name: Row label.
        value: Filled dot, a fraction (None: no dot).
        ci: Its interval.
        before: Hollow dot: the original model.
    """

    name: str
    value: Number | None
    ci: Sequence[Number | None] | None = None
    before: Number | None = None


def attacker_dots(attribute: Mapping[str, Any]) -> list[Dot]:
    """Return one row per attacker, with what the same attacker got from the original model."""
    before = {run["name"]: run.get("accuracy") for run in attribute.get("original_attackers") or ()}
    return [
        Dot(run["name"], run.get("accuracy"), run.get("ci"), before.get(run["name"])) for run in attribute["attackers"]
    ]


def merged_floors(floors: Mapping[str, Number], tolerance: float = 0.0015) -> list[tuple[list[str], Number]]:
    """Group floors that a reader could not tell apart, lowest first.

    Example:
        >>> merged_floors({"chance": 0.5, "majority": 0.501, "label": 0.52})
        [(['chance', 'majority'], 0.501), (['label'], 0.52)]
    """
    groups: list[tuple[list[str], Number]] = []
    for name in sorted((name for name in REFERENCES if is_number(floors.get(name))), key=lambda name: floors[name]):
        if groups and abs(floors[name] - groups[-1][1]) <= tolerance:
            groups[-1] = ([*groups[-1][0], name], floors[name])
        else:
            groups.append(([name], floors[name]))
    return groups


def attackers_figure(attribute: Mapping[str, Any], width: Number = WIDE) -> Figure:
    """Draw every attacker against floors and ceiling: dots with whiskers, hollow dots for the original model."""
    dots, groups = attacker_dots(attribute), merged_floors(attribute["floors"])
    columns = 3 if width >= 500 else 1
    keys = len(groups) + 1 + any(is_number(dot.before) for dot in dots)
    left = min(max(len(dot.name) for dot in dots) if dots else 0, LONGEST) * 7 + 20
    room = Room(width, left=left, right=66, top=6, bottom=34 + 19 * -(-keys // columns))
    figure, axes = room.axes(34 * max(len(dots), 1))
    _frame(axes, _limits(dots, groups), len(dots))
    handles = _draw_floors(axes, groups)
    for position, dot in enumerate(dots):
        _name(axes, shortened(dot.name, LONGEST), position)
        _draw_dot(axes, dot, position)
    _key(figure, handles, keys > len(groups) + 1, columns, left / width)
    return figure


def reconstructions_figure(arrays: Mapping[str, Any]) -> Figure:
    """Draw the same people as image, from the original's features, and from the unlearned features."""
    rows = {name: label for name, label in ROWS.items() if name in arrays}
    n = len(arrays["images"])
    figure = blank(110 + 84 * n, 84 * len(rows) + 36)
    grid = figure.add_gridspec(len(rows), n, left=110 / (110 + 84 * n), right=1, top=0.99, bottom=0.13)
    for i, (name, label) in enumerate(rows.items()):
        for j, picture in enumerate(arrays[name]):
            axes = figure.add_subplot(grid[i, j])
            axes.imshow(as_pixels(picture), interpolation="nearest")
            axes.axis("off")
            if j == 0:
                axes.text(-0.1, 0.5, label, transform=axes.transAxes, ha="right", va="center", fontsize=10)
            if i == len(rows) - 1:
                caption = "\n".join(shortened(part, 16) for part in caption_of(arrays, j).split(" · "))
                axes.text(0.5, -0.06, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return figure


def as_pixels(picture: np.ndarray) -> np.ndarray:
    """Turn uint8 ``[C, H, W]`` (one or three channels) into ``[H, W, 3]``."""
    pixels = np.moveaxis(np.asarray(picture), 0, -1)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def caption_of(arrays: Mapping[str, Any], index: int) -> str:
    """Return the caption of a person, or an empty string."""
    labels = arrays.get("labels")
    return str(labels[index]) if labels is not None and index < len(labels) else ""


def comparison_figure(
    dots: Sequence[Dot],
    floors: Sequence[Number | None] = (),
    show: Callable[[object], str] = percent,
    width: Number = NARROW,
) -> Figure:
    """Draw one number of several runs, a row each; a short upright mark per row is that run's label floor.

    Args:
        dots: A row per run.
        floors: A label floor per run, or nothing.
        show: Number → text; `percent` for fractions, any other for amounts, which start at 0.
        width: In CSS pixels.
    """
    figure, axes = Room(width, left=10, right=86, top=4, bottom=26).axes(46 * len(dots))
    marks = [(["label"], value) for value in floors if value is not None]
    _frame(axes, _limits(dots, marks) if show is percent else _from_zero(dots), len(dots), show)
    for position, dot in enumerate(dots):
        line = position + 0.16
        axes.annotate(shortened(dot.name, 34), (0, position - 0.22), xycoords=_FROM_LEFT, va="center", fontsize=11)
        _draw_dot(axes, dot, line, show)
        floor = floors[position] if position < len(floors) else None
        if floor is not None:
            axes.plot([floor, floor], [line - 0.17, line + 0.17], color=LIGHT["floor"], linewidth=2)
    return figure


def _limits(dots: Sequence[Dot], groups: Sequence[tuple[list[str], Number]]) -> tuple[Number, Number]:
    """Range of an axis of fractions: the data with some air, not beyond 0 and 1."""
    values = [value for _, value in groups] + _numbers(dots)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = max(0.06 * (high - low), 0.01)
    return max(low - pad, min(low, 0.0)), min(high + pad, max(high, 1.0) + 0.3 * pad)


def _from_zero(dots: Sequence[Dot]) -> tuple[Number, Number]:
    return 0.0, 1.08 * max([value for value in _numbers(dots) if value > 0], default=1.0)


def _numbers(dots: Sequence[Dot]) -> list[Number]:
    found = [value for dot in dots for value in (dot.value, dot.before, *(dot.ci or ()))]
    return [value for value in found if is_number(value)]


def _frame(axes: Axes, limits: tuple[Number, Number], rows: int, show: Callable[[object], str] = percent) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(max(rows, 1) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="x")
    axes.tick_params(axis="x", pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if show is percent:
        digits = 0 if limits[1] - limits[0] > 0.06 else 1
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, digits)))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value) if value else "0"))


def _draw_floors(axes: Axes, groups: list[tuple[list[str], Number]]) -> list[Line2D]:
    """Draw vertical lines; return them for the legend, with their values."""
    handles = []
    for names, value in groups:
        leading = names[-1] if "label" not in names else "label"
        colour = LIGHT["floor"] if leading == "label" else LIGHT["muted"]
        line = axes.axvline(value, color=colour, linestyle=REFERENCES[leading], linewidth=1.5, zorder=1)
        line.set_label(f"{' = '.join(NAMES[name] for name in names)} {percent(value)}")
        handles.append(line)
        if leading == "label":
            axes.axvspan(value, axes.get_xlim()[1], color=LIGHT["accent-soft"], linewidth=0, zorder=0)
    return handles


def _name(axes: Axes, text: str, position: Number) -> None:
    place: dict[str, Any] = {"xytext": (-12, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    axes.annotate(text, (0, position), xycoords=_FROM_LEFT, **place)


def _draw_dot(axes: Axes, dot: Dot, line: Number, show: Callable[[object], str] = percent) -> None:
    """Draw ring, whisker and dot, and the number at the right edge."""
    if is_number(dot.before):
        axes.plot([dot.before], [line], "o", markersize=8, zorder=3, clip_on=False, **RING)
    low, high = dot.ci if dot.ci is not None and len(dot.ci) == 2 else (None, None)
    if is_number(low) and is_number(high):
        axes.plot([low, high], [line, line], color=LIGHT["accent"], linewidth=2.4, zorder=4)
    if is_number(dot.value):
        axes.plot([dot.value], [line], "o", color=LIGHT["accent"], markersize=9, zorder=5, clip_on=False)
    where: dict[str, Any] = {"xytext": (10, 0), "textcoords": "offset points", "va": "center", "fontweight": "bold"}
    axes.annotate(show(dot.value), (1, line), xycoords=_FROM_LEFT, annotation_clip=False, **where)


def _key(figure: Figure, floors: list[Line2D], before: bool, columns: int, left: Number) -> None:
    label = f"{'unlearned' if before else 'this'} model, with interval"
    after = Line2D([], [], color=LIGHT["accent"], marker="o", markersize=8, label=label)
    handles = [after]
    if before:
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=7, label="original model", **RING))
    figure.legend(
        handles=[*handles, *floors],
        loc="lower left",
        bbox_to_anchor=(left, 0),
        ncols=columns,
        fontsize=11,
        labelcolor=LIGHT["muted"],
        borderaxespad=0,
        borderpad=0.2,
        handletextpad=0.6,
        columnspacing=1.4,
        labelspacing=0.5,
    )
