"""The executor of one process: batches in, updated blocks out, one step after the other."""

from __future__ import annotations

from collections.abc import Callable

from efface.data.batches import Batch
from efface.engine.schedules import SCHEDULES, Metrics, Step
from efface.engine.seeds import seed_everything
from efface.engine.training import Training


def run(training: Training, advance: Step | None = None) -> None:
    """Make all steps, from where the ledger stands to the end.

    Args:
        training: Stages, batches and books.
        advance: Makes one step; None: as ``engine.schedule`` says.
    """
    ledger, chosen = training.ledger, advance or SCHEDULES[training.config.schedule]

    def take(batch: Batch) -> None:
        metrics = _step(training, chosen, batch)
        if ledger.plan.logs(ledger.step):
            ledger.note(ledger.step, metrics)

    drive(training, take)


def drive(training: Training, take: Callable[[Batch], object], finish: Callable[[], object] = lambda: None) -> None:
    """Hand out all batches that are left; evaluate and save where that is due.

    Args:
        training: Stages, batches and books.
        take: Learns from a batch, and counts it in the ledger.
        finish: Called before a state is read: ends what was begun with the batches so far.
    """
    ledger, plan = training.ledger, training.ledger.plan
    with ledger.bar() as bar:
        while ledger.step < plan.steps:
            epoch, offset = divmod(ledger.step, plan.per_epoch)
            for stage in training.stages:
                stage.train()
            for batch in training.batches.epoch(epoch, start=offset):
                take(batch)
                bar.show(ledger.step)
                if plan.saves(ledger.step) and not plan.ends_epoch(ledger.step):
                    finish()
                    _save(training)
            finish()
            if training.evaluate is not None:
                ledger.validated(ledger.step, training.evaluate(training.fabric))
            _save(training)


def _step(training: Training, advance: Step, batch: Batch) -> Metrics:
    """Seed and make one step."""
    ledger, plan, job = training.ledger, training.ledger.plan, training.job
    seed_everything(job.seed, job.model, "step", ledger.step, *_replica(training))
    for stage in training.stages:
        stage.begin_step(ledger.step, plan.steps, plan.per_epoch)
    metrics = advance(training.fabric, training.stages, batch, plan.progress(ledger.step))
    ledger.step += 1
    return metrics


def _save(training: Training) -> None:
    training.ledger.save(training.ledger.step, [stage.state() for stage in training.stages])
    training.fabric.barrier()


def _replica(training: Training) -> tuple[int, ...]:
    """Data-parallel processes draw their own dropout; one process draws as it always has."""
    number, count = training.batches.shard
    return (number,) if count > 1 else ()
