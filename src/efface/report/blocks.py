"""The parts of a report before they are HTML, Markdown or text: sections of sentences and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from efface.report.formats import interval, number, percent


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, and a smaller one below it."""

    text: str
    under: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: What it shows; also its label for those who can't see it.
        head: Titles of the columns.
        rows: Cells, a row each.
        words: Columns that hold words and are flush left, besides the first.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Block:
    """A part of a section: a heading, sentences, tables, and perhaps a figure.

    Attributes:
        heading: May be empty.
        sentences: A paragraph each.
        tables: Below them.
        figure: What is drawn for it: rows as of an attribute with attackers; on the page, the drawing.
        marks: Short remarks, set apart.
    """

    heading: str = ""
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figure: Any = None
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        key: Its id on the page.
        title: Its heading.
        label: In the list of sections.
        note: How to read it.
        blocks: What it holds.
    """

    key: str
    title: str
    label: str
    note: str = ""
    blocks: tuple[Block, ...] = field(default=())


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], words: Sequence[int] = ()) -> Table:
    """Return a table; plain texts become cells.

    Example:
        >>> table("Floors", ("floor", "accuracy"), [("chance", "50 %")]).rows[0][1].text
        '50 %'
    """
    made = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Table(caption, tuple(head), made, tuple(words))


def share(figure: Any) -> Cell:
    """Return a figure ``{value, ci}`` of fractions as a cell in percent.

    Example:
        >>> share({"value": 0.5, "ci": [0.4, 0.6]}).under.split("–")[0]
        '40.0'
    """
    figure = figure or {}
    return Cell(percent(figure.get("value")), interval(figure.get("ci")))


def bits(figure: Any) -> Cell:
    """Return a figure ``{value, ci}`` in bits as a cell."""
    figure = figure or {}
    ci = figure.get("ci")
    return Cell(number(figure.get("value")), f"{number(ci[0])} to {number(ci[1])}" if ci else "")
