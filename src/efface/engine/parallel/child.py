"""A forked process that trains one block: what it does besides its steps."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from efface.engine.forks import Failure, Lifeline, compute
from efface.engine.parallel.worker import Sink, Source, run_block
from efface.engine.schedules import Metrics
from efface.engine.training import Training


@dataclass(frozen=True)
class Figures:
    """Figures of a step that is logged."""

    done: int
    values: dict[str, float]


@dataclass(frozen=True)
class State:
    """State of the block after a step, as ``torch.save`` writes it."""

    done: int
    content: bytes


@dataclass(frozen=True)
class Finished:
    """All steps are made."""


@dataclass(frozen=True)
class Links:
    """What ties a child to its parent.

    Attributes:
        messages: Takes ``Figures``, ``State``, ``Failure`` and ``Finished``.
        lifeline: Ends the child with its parent.
        board: Steps done, one number per block, in shared memory.
        threads: Threads to compute with.
    """

    messages: Connection
    lifeline: Lifeline
    board: Tensor
    threads: int


def main(training: Training, index: int, source: Callable[[], Source], sink: Sink | None, links: Links) -> None:
    """Train block ``index`` in this process, and say what became of it."""
    compute(partial(_work, training, index, source, sink, links), links.lifeline)


def _work(training: Training, index: int, source: Callable[[], Source], sink: Sink | None, links: Links) -> None:
    try:
        torch.set_num_threads(links.threads)
        run_block(training, index, source(), sink, _Reporter(training, index, links))
        links.messages.send(Finished())
    except Exception as error:
        links.messages.send(Failure.of(error))


class _Reporter:
    """Tells the parent what is due after a step."""

    def __init__(self, training: Training, index: int, links: Links):
        self.training, self.index, self.links = training, index, links

    def __call__(self, done: int, metrics: Metrics) -> None:
        plan = self.training.ledger.plan
        self.links.board[self.index] = done
        if plan.logs(done):
            self.links.messages.send(Figures(done, {name: float(value) for name, value in metrics.items()}))
        if needs_state(self.training, done):
            content = io.BytesIO()
            torch.save(self.training.stages[self.index].state(), content)
            self.links.messages.send(State(done, content.getvalue()))


def needs_state(training: Training, done: int) -> bool:
    """Whether the parent needs the blocks' states after ``done`` steps: to save, to evaluate, or to end with."""
    plan = training.ledger.plan
    if done == plan.steps or (training.evaluate is not None and plan.ends_epoch(done)):
        return True
    return training.ledger.keeps_states and plan.saves(done)
