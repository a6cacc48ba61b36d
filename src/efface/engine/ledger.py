"""The books of one training: what is due after which step, the log, the checkpoint. Every executor keeps the same."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from efface.config import EngineConfig
from efface.engine.checkpoints import Checkpoints
from efface.engine.job import History, Job
from efface.engine.log import MetricsLog
from efface.engine.stages import Stage
from efface.errors import TrainingError


@dataclass(frozen=True)
class Plan:
    """Which steps are made, and what is due after each.

    Attributes:
        steps: Of the whole training.
        per_epoch: Steps of an epoch.
        log_every: Steps between lines of the log.
        checkpoint_every: Steps between checkpoints; 0: one per epoch.

    Example:
        >>> plan = Plan(steps=20, per_epoch=10, log_every=4, checkpoint_every=5)
        >>> [step for step in range(1, 11) if plan.logs(step)], [step for step in range(1, 11) if plan.saves(step)]
        ([4, 5, 8, 10], [5, 10])
    """

    steps: int
    per_epoch: int
    log_every: int = 20
    checkpoint_every: int = 0

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch ends with ``done`` steps."""
        return done % self.per_epoch == 0

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after ``done`` steps."""
        return self.ends_epoch(done) or (bool(self.checkpoint_every) and done % self.checkpoint_every == 0)

    def logs(self, done: int) -> bool:
        """Whether a line is due after ``done`` steps; one always is before a checkpoint, which must be finite."""
        return done % self.log_every == 0 or self.saves(done)

    def progress(self, step: int) -> float:
        """Share of the training at a step, 0 to 1."""
        return step / max(1, self.steps - 1)


class Ledger:
    """Log and checkpoints of one training.

    Args:
        config: Epochs, and how often to log and save.
        job: Folder, names, whether to resume.
        per_epoch: Steps of an epoch.
        writes: Whether this process is the one that writes files.

    Raises:
        TrainingError: The train split does not fill one batch.
    """

    def __init__(self, config: EngineConfig, job: Job, per_epoch: int, writes: bool = True):
        if not per_epoch:
            size = config.batch_size
            raise TrainingError(f"The train split does not fill one batch of {size}. Lower `engine.batch_size`.")
        self.plan = Plan(config.epochs * per_epoch, per_epoch, config.log_every, config.checkpoint_every)
        self.job, self.writes = job, writes
        self.log = MetricsLog(job.folder / "metrics.jsonl" if writes and job.folder else None, job.model)
        folder = job.folder / "checkpoints" if job.folder else None
        self.checkpoints = Checkpoints(folder, job.model, job.fingerprint)
        self.step, self._begun = 0, time.perf_counter()
        self.threads: int | None = None
        """Threads that the training began with, if it resumes: another number would change the last bit."""

    @property
    def seconds(self) -> float:
        """Time of the training so far, over all its resumptions."""
        return time.perf_counter() - self._begun

    @property
    def keeps_states(self) -> bool:
        """Whether checkpoints are written at all."""
        return self.checkpoints.path is not None

    def restore(self, stages: Sequence[Stage]) -> None:
        """Go back to the last checkpoint if the job resumes; else drop it."""
        state = self.checkpoints.load() if self.job.resume else None
        if state is not None:
            for stage, values in zip(stages, state["stages"], strict=True):
                stage.load_state(values)
            self.step, self._begun = state["step"], time.perf_counter() - state["seconds"]
            self.threads = state.get("threads")
        if self.writes:
            if not self.job.resume:
                self.checkpoints.delete()
            self.log.rewind(self.step if state is not None else -1)

    def note(self, step: int, metrics: Mapping[str, Tensor | float]) -> None:
        """Log the figures of a step; stop where one is not finite, before any checkpoint is written.

        Raises:
            TrainingError: A figure is not finite.
        """
        values = {name: float(value) for name, value in metrics.items()}
        self.check(step, values)
        self.log.write(step, step / self.plan.per_epoch, "train", values)

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Raise TrainingError where a figure is not finite."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"Training of the {self.job.model} model stopped at step {step} of {self.plan.steps}: "
                f"{', '.join(bad)} not finite. Try a lower `engine.lr` or `method.removal_weight`, "
                "`engine.grad_clip=1`, or `engine.precision=32-true`. The last checkpoint is intact."
            )

    def validated(self, step: int, figures: Mapping[str, float]) -> None:
        """Log figures of the validation split."""
        self.log.write(step, step / self.plan.per_epoch, "validation", figures)

    def save(self, step: int, states: list[dict[str, Any]]) -> None:
        """Write the checkpoint after ``step`` steps, one state per block."""
        if self.writes:
            self.checkpoints.save(step, states, self.seconds)

    def history(self) -> History:
        """Return what the training leaves behind."""
        return History(self.seconds, self.step, self.log.lines)

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        """Show the progress bar, if the job asks for one."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True, disable=not (self.job.progress and self.writes)) as progress:
            task = progress.add_task(f"Training ({self.job.model})", total=self.plan.steps, completed=self.step)
            yield Bar(progress, task)


class Bar:
    """A progress bar that is told the number of steps done."""

    def __init__(self, progress: Progress, task: Any):
        self._progress, self._task = progress, task

    def show(self, done: int) -> None:
        """Show so many steps as done."""
        self._progress.update(self._task, completed=done)


__all__ = ["Bar", "Ledger", "Plan"]
