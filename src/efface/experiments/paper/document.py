"""Fills the parts of docs/reproduction.md that code writes: the paper's arithmetic, and tables from committed results.

python -m efface.experiments.paper.document docs/reproduction.md benchmarks/results/reproduction
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from efface.errors import ConfigError
from efface.experiments.paper import arithmetic

NOT_YET = "None are committed yet."


def fill(text: str, name: str, content: str) -> str:
    """Return a document with the part between two marks replaced.

    Raises:
        ConfigError: The marks are not there.

    Example:
        >>> fill("a <!-- x:begin --> old <!-- x:end --> b", "x", "new").split()
        ['a', '<!--', 'x:begin', '-->', 'new', '<!--', 'x:end', '-->', 'b']
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ConfigError(f"The document has no part between {begin!r} and {end!r}.")
    return pattern.sub(lambda _: f"{begin}\n\n{content.strip()}\n\n{end}", text)


def results(folder: Path, document: Path) -> str:
    """Return the pages of a folder of results, a section each, with its pictures where they are committed."""
    pages = sorted(folder.glob("*/*.md")) if folder.is_dir() else []
    parts = []
    for page in pages:
        if page.name == "README.md":
            continue
        title, _, rest = page.read_text(encoding="utf-8").partition("\n")
        body = _pictures(rest, page.parent, document.parent)
        parts.append(f"### {title.removeprefix('# ')} ({page.parent.name})\n{body}")
    return "\n\n".join(part.strip() for part in parts) or NOT_YET


def _pictures(text: str, folder: Path, start: Path) -> str:
    """Point pictures to where they are, and drop those that are not committed: they show real people."""

    def point(found: re.Match[str]) -> str:
        path = folder / found[2]
        if not path.exists():
            return ""
        return f"![{found[1]}]({Path(os.path.relpath(path, start)).as_posix()})"

    return re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", point, text)


def write(document: Path, folder: Path) -> None:
    """Fill both parts of a document in place."""
    text = document.read_text(encoding="utf-8")
    text = fill(text, "arithmetic", arithmetic.to_markdown())
    document.write_text(fill(text, "results", results(folder, document)), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
