"""A table with its head, notes and figures, as Markdown and as one HTML page that opens offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from efface.report.render import environment, save_page, shell
from efface.report.svg import save_png, style, to_svg

TEMPLATE = """{% extends "base.html.j2" %}
{% block body %}
<header class="top">
  <p class="eyebrow"><b>efface</b> &nbsp;{{ page.over }}</p>
  <h1>{{ page.title }}</h1>
  <p class="lede">{{ page.lede|code }}</p>
</header>
<main id="main">
{% if page.rows %}<section aria-labelledby="h-table">
  <h2 id="h-table">Results</h2>
  <div class="table" tabindex="0" role="region" aria-label="{{ page.title }}"><table>
    <thead><tr>{% for name in page.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
    <tbody>
    {% for row in page.rows %}
    <tr>{% for cell in row %}
      {% if loop.first %}<th scope="row">{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}
    {% endfor %}</tr>
    {% endfor %}
    </tbody>
  </table></div>
</section>{% endif %}
{% for picture in drawn %}
<section><figure>
<figcaption><b>{{ picture.title }}</b> {{ picture.alt }}</figcaption>{{ picture.svg }}
</figure></section>
{% endfor %}
<section aria-labelledby="h-notes"><h2 id="h-notes">Notes</h2>
<ul>{% for note in page.notes %}<li>{{ note|code }}</li>{% endfor %}</ul></section>
</main>
<footer>Made by efface from finished cells; each is a JSON of its own.</footer>
{% endblock %}
"""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: Of its files.
        title: Above it.
        alt: What it says, for those who don't see it.
        draw: Makes it.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Page:
    """A reproduced table or figure.

    Attributes:
        name: Of its files: table1, figure5.
        title: Of the page.
        lede: What it is, in a sentence or two.
        head: Names of the columns.
        rows: Texts.
        notes: What a reader must know.
        pictures: Figures.
        over: Small print over the title.
    """

    name: str
    title: str
    lede: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = field(default=())
    over: str = "The paper's evaluation"

    def markdown(self) -> str:
        """Return the page as Markdown."""
        parts = [f"# {self.title}", self.lede]
        if self.rows:
            parts.append(table(self.head, self.rows))
        parts += [f"![{picture.alt}]({picture.name}.svg)" for picture in self.pictures]
        parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.md, NAME.html, and each figure as SVG and PNG; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        text = folder / f"{self.name}.md"
        text.write_text(self.markdown(), encoding="utf-8")
        drawn = [path for picture in self.pictures for path in save(picture, folder)]
        return [text, save_page(self._html(), folder / f"{self.name}.html"), *drawn]

    def _html(self) -> str:
        drawn: list[Mapping[str, Any]] = [
            {"title": one.title, "alt": one.alt, "svg": Markup(to_svg(one.draw, one.alt, one.name))}
            for one in self.pictures
        ]
        context = {**shell(), "title": self.title, "broad": True, "page": self, "drawn": drawn}
        return environment().from_string(TEMPLATE).render(context)


def save(picture: Picture, folder: Path) -> list[Path]:
    """Write a figure as SVG and PNG in the light colours."""
    vector = folder / f"{picture.name}.svg"
    with style():
        picture.draw().savefig(vector, format="svg", metadata={"Date": None})
    return [vector, save_png(picture.draw, folder / f"{picture.name}.png")]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Example:
        >>> print(table(["a"], [["1"]]))
        | a |
        |---|
        | 1 |
    """
    lines = [head, *rows]
    first, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([first, "|" + "---|" * len(head), *rest])


def printed(value: float | None, digits: int = 4) -> str:
    """Return a figure as the paper prints it."""
    return "–" if value is None else f"{value:.{digits}f}"
