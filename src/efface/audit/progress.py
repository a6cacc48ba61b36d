"""Progress bars of an audit, on the error stream; nothing is drawn where nobody looks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int], None]


class Bars:
    """Opens bars; each is a function of what is going on and by how much it went on."""

    def __init__(self, progress: object | None):
        self.progress = progress

    @property
    def told(self) -> bool:
        """Whether anybody is told anything."""
        return self.progress is not None

    def say(self, text: str) -> None:
        """Print a text beside the bars, on the error stream."""
        if self.progress is not None:
            self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)  # type: ignore[attr-defined]

    def open(self, title: str, total: int) -> Advance:
        """Return the function that moves a new bar."""
        if self.progress is None:
            return lambda *_: None
        task, home = self.progress.add_task(title, total=total), os.getpid()  # type: ignore[attr-defined]

        def advance(doing: str, steps: int) -> None:
            # A fork's bar is a copy that nobody sees, and whose lock another thread of the parent may have held.
            if os.getpid() != home:
                return
            self.progress.update(task, description=doing, advance=steps)  # type: ignore[union-attr]

        return advance


@contextmanager
def bars(shown: bool) -> Iterator[Bars]:
    """Show bars while the block runs, on a terminal only."""
    if not shown:
        yield Bars(None)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress)
