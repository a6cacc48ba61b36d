"""Forked processes: pieces of this process's work done side by side, each in a copy of it.

A child computes in a thread of its own: OpenMP's pool of threads belongs to the thread that forks, and does not survive
the fork. It ends with its parent, however that ends. Nothing is sent to it but the number of a piece: it has what the
parent had when it forked.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from efface.errors import EffaceError, TrainingError

Lifeline = tuple[int, int]
"""(read end, write end) of a pipe that nobody writes to; it closes when the parent ends."""


@dataclass(frozen=True)
class Failure:
    """An error in a child.

    Attributes:
        kind: Its class, or None where that can't be sent.
        text: What it says; with the name of its class where it is none of ours.
        trace: Where it came from.
    """

    kind: type[Exception] | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return what can be sent of an error."""
        kind: Any = type(error)
        try:
            pickle.loads(pickle.dumps(kind))
        except Exception:  # a class that was made inside a function, say
            kind = None
        text = str(error) if isinstance(error, EffaceError) else f"{type(error).__name__}: {error}"
        return cls(kind, text, traceback.format_exc())

    def error(self, words: Callable[[str], Exception]) -> Exception:
        """Return the error, one of ours as it was, with the child's traceback as its cause.

        Args:
            words: Puts the text of any other error into one.
        """
        kind = self.kind if self.kind is not None and issubclass(self.kind, EffaceError) else words
        found = kind(self.text)
        found.__cause__ = RuntimeError(self.trace)
        return found


def can_fork() -> bool:
    """Return whether this process may fork others: daemons of ``multiprocessing``, such as a pool's, may not."""
    return "fork" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def fork(context: ForkContext, target: Callable[..., None], args: tuple[Any, ...], name: str) -> ForkProcess:
    """Start a child."""
    process = context.Process(target=target, args=args, name=name, daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads: a child computes in a new thread and takes no lock of others.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def compute(work: Callable[[], None], lifeline: Lifeline) -> None:
    """Do a child's work: in a new thread, deaf to Ctrl-C, and no longer than the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(lifeline[1])
    threading.Thread(target=_end_with_parent, args=(lifeline[0],), daemon=True).start()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def how_it_ended(process: BaseProcess) -> tuple[str, bool]:
    """Return how a child that is gone has ended, in words; and whether memory may have been short."""
    process.join()
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return how, code == -signal.SIGKILL


def side_by_side(
    work: Callable[[int], Any], order: Sequence[int], workers: int, threads: int
) -> Iterator[tuple[int, Any]]:
    """Call a function with each of several numbers, in forked processes; yield numbers and answers as they come.

    Args:
        work: Called in a child. Its answer is pickled; what it changes is lost.
        order: The numbers, in the order in which they are begun.
        workers: Processes.
        threads: Of each.

    Raises:
        EffaceError: The function's own.
        RuntimeError: Another error of the function's, in words.
        TrainingError: A process ended without an answer. No process is left after any of these.

    Example:
        >>> sorted(side_by_side(lambda number: number**2, [2, 1], workers=2, threads=1))
        [(1, 1), (2, 4)]
    """
    waiting = list(order)
    with _team(work, min(workers, len(waiting)), threads) as team:
        busy = {connection: _begin(connection, team[connection], waiting.pop(0)) for connection in team}
        while busy:
            for connection in [one for one in wait(list(busy)) if isinstance(one, Connection)]:
                number, answer = busy.pop(connection), _answer(connection, team[connection])
                if waiting:
                    busy[connection] = _begin(connection, team[connection], waiting.pop(0))
                yield number, answer


@contextmanager
def _team(work: Callable[[int], Any], workers: int, threads: int) -> Iterator[dict[Connection, ForkProcess]]:
    """Children by the connection on which they take numbers; none is left afterwards."""
    context, lifeline = multiprocessing.get_context("fork"), os.pipe()
    team: dict[Connection, ForkProcess] = {}
    try:
        for number in range(workers):
            ours, theirs = context.Pipe()
            # The ends of those before would keep their pipes open.
            others = [ours, *team]
            team[ours] = fork(context, _serve, (work, theirs, others, lifeline, threads), f"efface-{number}")
            theirs.close()
        yield team
    finally:
        for process in team.values():
            process.kill()
        for connection, process in team.items():
            process.join()
            process.close()
            connection.close()
        for end in lifeline:
            os.close(end)


def _serve(
    work: Callable[[int], Any], numbers: Connection, others: Sequence[Connection], lifeline: Lifeline, threads: int
) -> None:
    for connection in others:
        connection.close()

    def answer() -> None:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            while True:
                number = numbers.recv()
                try:
                    # Tensors as bytes: torch would send a handle of shared memory, which ends with this process.
                    said = pickle.dumps(work(number))
                except Exception as error:
                    said = pickle.dumps(Failure.of(error))
                numbers.send_bytes(said)

    compute(answer, lifeline)


def _begin(connection: Connection, process: ForkProcess, number: int) -> int:
    """Give a child a number, and return it."""
    with _alive(process):
        connection.send(number)
    return number


def _answer(connection: Connection, process: ForkProcess) -> Any:
    """Return what a child has sent."""
    with _alive(process):
        said = connection.recv_bytes()
    found = pickle.loads(said)
    if isinstance(found, Failure):
        raise found.error(RuntimeError)
    return found


@contextmanager
def _alive(process: ForkProcess) -> Iterator[None]:
    """Tell a connection that broke as the death of the child at its other end."""
    try:
        yield
    except (EOFError, OSError):
        how, short = how_it_ended(process)
        hint = " Was memory short? With one thread (`engine.threads=1`) they work in turn." if short else ""
        raise TrainingError(f"One of the processes that work side by side {how}.{hint}") from None


__all__ = ["Failure", "can_fork", "compute", "fork", "how_it_ended", "side_by_side"]
