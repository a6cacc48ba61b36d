"""Work of an audit side by side: in forked processes of fewer threads each, where that is faster than in turn.

Most attackers are small: a second thread helps them little, and another attacker a lot. They know nothing of each
other, so nothing else changes; what they find is what they find with as few threads.
"""

from __future__ import annotations

import math
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
    epochs = settings.config.epochs
    seconds = [
        settings.seeds * one.seconds(len(arena.train), arena.train.shape, arena.train.classes, epochs)
        for one in attackers
    ]
    if workers_for(seconds, settings.device) > 1:
        for one in attackers:
            one.prepare(arena.train, [arena.validation, arena.audited])

    def tell(number: int) -> None:
        settings.tick(f"{attackers[number].name} has read {arena.of}", epochs * settings.seeds)

    return in_turn_or_beside([partial(work, one) for one in attackers], seconds, settings.device, tell)


def in_turn_or_beside(
    tasks: Sequence[Callable[[], Found]],
    seconds: Sequence[float],
    device: torch.device,
    tell: Callable[[int], None] = lambda _: None,
) -> list[Found]:
    """Return what each task returns, in their order.

    Args:
        tasks: They know nothing of each other. What they change may be lost.
        seconds: That each takes on one core; NaN: not known, and nothing is forked.
        device: Where they compute; only a CPU is shared out.
        tell: Hears the number of a task that another process has done: its progress was shown to nobody.

    Raises:
        EffaceError: A task's own, or a process ended without an answer.
    """
    workers = workers_for(seconds, device)
    if workers == 1:
        return [task() for task in tasks]
    longest_first = sorted(range(len(tasks)), key=lambda number: -seconds[number])
    found = dict[int, Found]()
    each = max(1, torch.get_num_threads() // workers)
    for number, answer in side_by_side(lambda number: tasks[number](), longest_first, workers, each):
        tell(number)
        found[number] = answer
    return [found[number] for number in range(len(tasks))]


def workers_for(seconds: Sequence[float], device: torch.device) -> int:
    """Return in how many processes to do tasks; 1: in turn, in this one.

    In turn, n threads are taken to bring √n; side by side, one core each brings n, but no less than the longest takes.

    Args:
        seconds: That each takes on one core; NaN: not known, so they stay here.
        device: Where they compute.
    """
    threads = torch.get_num_threads()
    workers, total = min(threads, len(seconds)), sum(seconds)
    if workers < 2 or math.isnan(total) or total < WORTHWHILE or device.type != "cpu" or not can_fork():
        return 1
    beside = max(max(seconds), total / workers) / math.sqrt(threads // workers)
    return workers if beside < total / math.sqrt(threads) else 1


__all__ = ["fit_each", "in_turn_or_beside", "workers_for"]
