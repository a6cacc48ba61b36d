"""The work of one block: the same steps as ``local``, taken from a source and handed on to a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from efface.engine.parallel.parcels import Parcel, random_state, set_random_state
from efface.engine.schedules import Metrics, block_step
from efface.engine.seeds import seed_everything
from efface.engine.training import Training

Report = Callable[[int, Metrics], None]
"""Hears of a finished step: how many are done, and the last one's figures."""


@runtime_checkable
class Source(Protocol):
    """Where a block's parcels come from."""

    def get(self) -> Parcel:
        """Return the next one."""

    def release(self) -> None:
        """Say that it is no longer needed."""


@runtime_checkable
class Sink(Protocol):
    """Where a block's parcels go."""

    def put(self, parcel: Parcel) -> None:
        """Hand one on."""


class BatchSource:
    """The source of the first block: the batches of the train split, from where the ledger stands to the end."""

    def __init__(self, training: Training):
        self._parcels = self._all(training)

    @staticmethod
    def _all(training: Training) -> Iterator[Parcel]:
        plan, first = training.ledger.plan, training.ledger.step
        while first < plan.steps:
            epoch, offset = divmod(first, plan.per_epoch)
            for batch in training.batches.epoch(epoch, start=offset):
                yield Parcel(batch.images, batch)
                first += 1

    def get(self) -> Parcel:
        """Return the next batch."""
        return next(self._parcels)

    def release(self) -> None:
        """Nothing is held."""


def run_block(training: Training, index: int, source: Source, sink: Sink | None, report: Report) -> None:
    """Make every step of one block.

    Args:
        training: With all stages; the one of this block alone is trained.
        index: The block's number.
        source: Its input.
        sink: Who takes its features; None for the last block.
        report: Hears of each step.
    """
    stage, plan = training.stages[index], training.ledger.plan
    stage.train()
    for step in range(training.ledger.step, plan.steps):
        begin(training, index, step)
        parcel = source.get()
        if parcel.randomness is not None:
            set_random_state(parcel.randomness)
        metrics, features = block_step(training.fabric, stage, index, parcel.signal, parcel.batch, plan.progress(step))
        if sink is not None:
            sink.put(Parcel(features, parcel.batch, random_state()))
        del parcel, features
        source.release()
        report(step + 1, metrics)


def begin(training: Training, index: int, step: int) -> None:
    """Seed, and draw what the beginning of a step draws in one process: the restarts of all blocks, in their order."""
    job, plan, (replica, replicas) = training.job, training.ledger.plan, training.batches.shard
    seed_everything(job.seed, job.model, "step", step, *((replica,) if replicas > 1 else ()))
    for number, stage in enumerate(training.stages):
        enter = stage.begin_step if number == index else stage.rehearse_step
        enter(step, plan.steps, plan.per_epoch)
