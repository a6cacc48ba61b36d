"""The application object, and the one place where errors become one screen and exit code 2."""

from __future__ import annotations

import contextlib
import ctypes
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
    from efface.cli import audit, ls, report, run  # noqa: F401

    keep_freed_memory()
    try:
        app()
    except EffaceError as error:
        errors.print(Panel(escape(str(error)), title=_title(error), title_align="left", border_style="red"))
        sys.exit(2)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: a training step frees and asks for the same large buffers again and again.

    By default every buffer above 128 KiB to 32 MiB goes back to the system, and its pages are faulted in anew: about a
    tenth of a step on two cores. Other C libraries are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 2**31 - 1)


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
