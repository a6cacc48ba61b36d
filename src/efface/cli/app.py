"""The application object, and the one place where errors become one screen and exit code 2."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from efface.errors import EffaceError

app = typer.Typer(
    name="efface",
    help="Unlearn attributes from the features of a vision model, and measure with fresh attackers what is left.",
    epilog="Start with: efface run toyfaces-smiling-glasses. Documentation: docs/ in the repository.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
errors = Console(stderr=True)


def main() -> None:
    """Entry point of ``efface``."""
    # Imported here: each verb registers itself on the application.
    from efface.cli import audit, bench, compare, ls, report, reproduce, run, sweep  # noqa: F401

    keep_freed_memory()
    sys.path.insert(0, "")  # as `python -m` does: a user's module in the folder where the command is run is found
    try:
        app()
    except EffaceError as error:
        errors.print(Panel(escape(str(error)), title=_title(error), title_align="left", border_style="red"))
        sys.exit(2)


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Settings of glibc's allocator: the variable for processes to come, mallopt's number for it, our value."""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: a training step frees and asks for the same large buffers again and again.

    By default every buffer of 32 MiB and more goes back to the system, and so does whatever is freed at the end of the
    heap: the pages are faulted in anew, step by step. A thread other than the first has heaps of 64 MiB at most and
    maps what is larger, so the process of a block, which computes in a thread, needs the one arena of all threads.

    mallopt acts at once and is inherited by forks: no second start of the program is needed. The variables are for
    processes that are started afresh. What the user has set stays; other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for variable, (number, value) in ALLOCATOR.items():
            if variable not in os.environ and libc.mallopt(number, value):
                os.environ[variable] = str(value)


def _title(error: EffaceError) -> str:
    names = {
        "ConfigError": "Wrong setting",
        "DataError": "Data",
        "CutError": "The model can't be cut there",
        "ShapeError": "Shape",
        "TrainingError": "Training stopped",
        "CheckpointError": "Run folder",
        "AuditError": "Audit",
    }
    return names.get(type(error).__name__, "Error")
