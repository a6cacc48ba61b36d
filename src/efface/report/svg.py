"""Turns a matplotlib figure into inline SVG that follows the page's theme, and into a PNG file.

No pyplot: figures are made and forgotten here, and no global state of matplotlib outlives a call.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from efface.report.formats import Number
from efface.report.theme import LIGHT, VARIABLE

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["line"],
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 11,
    "axes.linewidth": 1,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "figure.facecolor": LIGHT["surface"],
    "font.family": ["sans-serif"],
    "font.size": 12,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 1,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "efface",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": LIGHT["muted"],
    "xtick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.color": LIGHT["muted"],
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
}
"""Names in data are no formulas, so ``$`` is a dollar sign: `text.parse_math` is off."""

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# matplotlib writes the shorthand `font: 12px 'A', 'B'` or, from 3.11 on, `font-family: 'A', 'B'`.
_FONT = re.compile(r"(font: (?:[\w-]+ )*[\d.]+px|font-family:) [^;]*")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house style; matplotlib's own settings are back afterwards."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the PNG font lacks is drawn as boxes there; the page itself has the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def to_svg(draw: Callable[[], Figure], alt: str, prefix: str) -> str:
    """Return a figure as an ``<svg>`` element for the page.

    Args:
        draw: Makes the figure, 72 dots to the inch.
        alt: What the figure says, for those who don't see it.
        prefix: Put before every id: ids are unique in a page.
    """
    buffer = io.StringIO()
    with style():
        draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for child in [*root.findall(f"{_SVG}metadata"), *root.findall(f"{_SVG}defs")]:
        # The first defs hold a style sheet for `*`, which would reach the whole page.
        if child.find(f"{_SVG}style") is not None or child.tag.endswith("metadata"):
            root.remove(child)
    for element in root.iter():
        _adapt(element, prefix)
    width = root.attrib["viewBox"].split()[2]
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "plot", "role": "img", "aria-label": alt}
    root.set("style", f"max-width:{width}px")
    return ElementTree.tostring(root, encoding="unicode")


def save_png(draw: Callable[[], Figure], path: Path, dpi: int = 144) -> Path:
    """Write a figure as a PNG file in the light colours and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        draw().savefig(path, format="png", dpi=dpi, metadata={"Software": "efface"})
    return path


def blank(width: Number, height: Number) -> Figure:
    """Return an empty figure of so many CSS pixels."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    """Plain tag names, ids of our own, the page's font, colours from the theme."""
    element.tag = element.tag.removeprefix(_SVG)
    attributes = {name.removeprefix(_XLINK): value for name, value in element.attrib.items()}
    for name, value in attributes.items():
        if name == "id":
            value = f"{prefix}-{value}"
        elif name == "href" and value.startswith("#"):
            value = f"#{prefix}-{value[1:]}"
        elif name in ("style", "fill", "stroke", "clip-path"):
            value = _FONT.sub(r"\1 var(--sans)", value).replace("url(#", f"url(#{prefix}-")
            value = _COLOUR.sub(lambda match: VARIABLE.get(match.group(), match.group()), value)
        attributes[name] = value
    if "fill" in attributes or "stroke" in attributes:
        # var() works in style, not in presentation attributes.
        moved = "; ".join(f"{name}: {attributes.pop(name)}" for name in ("fill", "stroke") if name in attributes)
        attributes["style"] = "; ".join(part for part in (moved, attributes.get("style", "")) if part)
    element.attrib = attributes
