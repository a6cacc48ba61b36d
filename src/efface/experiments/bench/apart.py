"""A measurement in a process of its own: it begins with no one's memory, and with the allocator that it is to have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from efface.errors import TrainingError


def apart(function: Callable[..., Any], *arguments: Any, plain: bool = False) -> Any:
    """Return what a function gives in a process that is started afresh.

    Args:
        function: Of a module; arguments and result can be pickled.
        arguments: Of the function.
        plain: With the C library's own allocator settings, not with those that ``efface`` starts with.

    Raises:
        TrainingError: The process failed or died.
    """
    context = get_context("spawn")  # a fork would begin with the parent's pages and threads
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, arguments))
    with _allocator_variables_hidden(plain):
        process.start()
    theirs.close()
    try:
        done, value = ours.recv()
    except EOFError:
        process.join()
        done, value = False, f"it ended with exit code {process.exitcode}"
    finally:
        process.join()
    if not done:
        raise TrainingError(f"The process of a measurement ({function.__name__}) failed: {value}.")
    return value


def _work(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


@contextmanager
def _allocator_variables_hidden(hidden: bool) -> Iterator[None]:
    """Start without the variables that set glibc's allocator."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if hidden and name.startswith("MALLOC_")}
    try:
        yield
    finally:
        os.environ |= kept
