"""Rows of pictures of the same people, for figures 3 and 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from efface.experiments.paper.tasks import TOYFACES, Task
from efface.report.plots import as_pixels
from efface.report.svg import blank

SIDE, LEFT, GAP = 72, 118, 34
"""Pixels of a picture, of the row labels, and above each data set."""


def figure(groups: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw, for each group, a line above it and a row of pictures per name.

    Args:
        groups: Title → name of the row → ``[n, C, H, W]`` uint8.
    """
    widest = max(len(pictures) for rows in groups.values() for pictures in rows.values())
    width = LEFT + SIDE * widest + 8
    height = sum(GAP + SIDE * len(rows) for rows in groups.values()) + 8
    made, top = blank(width, height), 0
    for title, rows in groups.items():
        made.text(8 / width, 1 - (top + 20) / height, title, fontsize=11, fontweight="bold", va="center")
        top += GAP
        for name, pictures in rows.items():
            made.text((LEFT - 10) / width, 1 - (top + SIDE / 2) / height, name, fontsize=10, ha="right", va="center")
            for place, picture in enumerate(pictures):
                left, bottom = (LEFT + SIDE * place) / width, 1 - (top + SIDE - 2) / height
                axes = made.add_axes((left, bottom, (SIDE - 3) / width, (SIDE - 3) / height))
                axes.imshow(as_pixels(picture), interpolation="nearest")
                axes.axis("off")
            top += SIDE
    return made


def kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from a file, or make them and write the file, whole or not at all."""
    if not path.exists():
        arrays = dict(make())
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.tmp.npz")
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def warning(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Return the remark that belongs under pictures of real people."""
    if all(task.source == TOYFACES for task in tasks.values()):
        return ("The people are drawn: nobody's picture is shown.",)
    return ("Some pictures are of real people, or drawn from theirs: they stay out of any repository and publication.",)
