"""Work of an audit side by side: in forked processes of fewer threads each, where that is faster than in turn.

Two threads on one attacker bring less than twice the speed, and two attackers share nothing that they would wait for
(figures: docs/scaling.md). They know nothing of each other, so nothing else changes; what they find is what they find
with as few threads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from efface.audit.attackers import Attacker
from efface.engine.forks import can_fork, side_by_side

if TYPE_CHECKING:
    from efface.audit.attack import Arena, Settings

Found = TypeVar("Found")

WORTHWHILE = 2.0
"""Seconds on one core below which nothing is forked."""


def fit_each(
    work: Callable[[Attacker], Found], attackers: Sequence[Attacker], arena: Arena, settings: Settings
) -> list[Found]:
    """Return what is made of each attacker, in their order.

    Args:
        work: Fits an attacker and reads it, which takes ``epochs · seeds`` steps of the settings' ``tick``.
        attackers: Who.
        arena: What they learn from.
        settings: How.
    """
    epochs, train = settings.config.epochs, arena.train

    def seconds() -> list[float]:
        return [settings.seeds * one.seconds(len(train), train.shape, train.classes, epochs) for one in attackers]

    def prepare() -> None:
        for one in attackers:
            one.prepare(train, [arena.validation, arena.audited])

    def tell(number: int) -> None:
        settings.tick(f"{attackers[number].name} has read {arena.of}", epochs * settings.seeds)

    return in_turn_or_beside([partial(work, one) for one in attackers], seconds, settings.device, tell, prepare)


def in_turn_or_beside(
    tasks: Sequence[Callable[[], Found]],
    seconds: Callable[[], Sequence[float]],
    device: torch.device,
    tell: Callable[[int], None] = lambda _: None,
    prepare: Callable[[], None] = lambda: None,
) -> list[Found]:
    """Return what each task returns, in their order.

    Args:
        tasks: They know nothing of each other. What they change may be lost.
        seconds: Returns what each takes on one core; NaN: not known, and nothing is forked. Asked only if it matters.
        device: Where they compute; only a CPU is shared out.
        tell: Hears the number of a task that another process has done: its progress was shown to nobody.
        prepare: Called before processes are forked.

    Raises:
        EffaceError: A task's own, or a process ended without an answer.
    """
    threads = torch.get_num_threads()
    # Elsewhere than on Linux, system libraries may not survive a fork.
    alone = threads < 2 or len(tasks) < 2 or device.type != "cpu" or sys.platform != "linux" or not can_fork()
    each = [] if alone else seconds()
    workers = workers_for(each, threads)
    if workers == 1:
        return [task() for task in tasks]
    prepare()
    longest_first = sorted(range(len(tasks)), key=lambda number: -each[number])
    found = dict[int, Found]()
    for number, answer in side_by_side(lambda number: tasks[number](), longest_first, workers, threads // workers):
        tell(number)
        found[number] = answer
    return [found[number] for number in range(len(tasks))]


def workers_for(seconds: Sequence[float], threads: int) -> int:
    """Return in how many processes to do tasks; 1: in turn, in this one.

    In turn, n threads are taken to bring √n; side by side, one core each brings n, but no less than the longest takes.

    Args:
        seconds: That each takes on one core; NaN: not known, so they stay here.
        threads: Of this process.

    Example:
        >>> workers_for([10.0, 5.0, 5.0], 2), workers_for([10.0, 1.0], 2), workers_for([10.0, 5.0, 5.0, 5.0], 16)
        (2, 1, 4)
    """
    workers, total = min(threads, len(seconds)), sum(seconds)
    if workers < 2 or math.isnan(total) or total < WORTHWHILE:
        return 1
    beside = max(max(seconds), total / workers) / math.sqrt(threads // workers)
    return workers if beside < total / math.sqrt(threads) else 1


__all__ = ["fit_each", "in_turn_or_beside", "workers_for"]
