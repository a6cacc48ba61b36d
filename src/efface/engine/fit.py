"""The training loop: batches in, updated blocks out; resumable to the bit, never silent about what is not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.engine.checkpoints import Checkpoints
from efface.engine.devices import make_fabric
from efface.engine.log import MetricsLog
from efface.engine.schedules import SCHEDULES
from efface.engine.seeds import derive, seed_everything
from efface.engine.stages import Part, Stage
from efface.errors import TrainingError

Evaluate = Callable[[Fabric], Mapping[str, float]]


@dataclass(frozen=True)
class Job:
    """Where a training writes and how it is named.

    Attributes:
        model: Name in logs and checkpoints: ``original`` or ``unlearned``.
        folder: Run folder; None: nothing is written.
        fingerprint: Of the configuration.
        seed: Of batches, augmentation and dropout.
        resume: Go on from the last checkpoint, if there is one.
        progress: Show a progress bar.
        augment: (mirror at random, largest shift in pixels).
    """

    model: str = "unlearned"
    folder: Path | None = None
    fingerprint: str = ""
    seed: int = 0
    resume: bool = False
    progress: bool = True
    augment: tuple[bool, int] = (True, 4)


@dataclass(frozen=True)
class History:
    """What a training leaves behind.

    Attributes:
        seconds: Time of the training, over all its resumptions.
        steps: Steps that were made.
        lines: The lines of metrics.jsonl.
    """

    seconds: float
    steps: int
    lines: list[dict[str, object]] = field(default_factory=list)


def fit(
    parts: Sequence[Part],
    data: AttributeDataset,
    config: EngineConfig,
    job: Job,
    evaluate: Evaluate | None = None,
) -> History:
    """Train the parts' blocks, objectives and adversaries in place.

    Args:
        parts: One per block, from input to output.
        data: Where the train split comes from.
        config: Schedule, optimiser and precision.
        job: Where to write, the seed, whether to resume.
        evaluate: Figures of the validation split, called after each epoch.

    Raises:
        TrainingError: The loss is not finite, or a batch can't be filled.
        CheckpointError: The checkpoint to resume from does not fit.
    """
    fabric = make_fabric(config)
    for part in parts:
        for module in (part.block, part.objective, part.adversary):
            if module is not None:
                module.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stages = [Stage(part, fabric, config) for part in parts]
    batches = Batches(
        data,
        "train",
        config.batch_size,
        fabric.device,
        augment=job.augment,
        seed=derive(job.seed, job.model, "batches"),
    )
    loop = _Loop(fabric, stages, batches, config, job)
    return loop.run(evaluate)


class _Loop:
    """State of one call of ``fit``."""

    def __init__(self, fabric: Fabric, stages: list[Stage], batches: Batches, config: EngineConfig, job: Job):
        self.fabric, self.stages, self.batches, self.config, self.job = fabric, stages, batches, config, job
        self.per_epoch = len(batches)
        self.steps = config.epochs * self.per_epoch
        self.advance = SCHEDULES[config.schedule]
        writes = fabric.is_global_zero and job.folder is not None
        self.log = MetricsLog(job.folder / "metrics.jsonl" if writes and job.folder else None, job.model)
        folder = job.folder / "checkpoints" if writes and job.folder else None
        self.checkpoints = Checkpoints(folder, job.model, job.fingerprint)
        self.step, self.spent = 0, 0.0

    def run(self, evaluate: Evaluate | None) -> History:
        """Train from the last checkpoint (or the start) to the end."""
        if not self.per_epoch:
            raise TrainingError("The train split does not fill one batch. Lower `engine.batch_size`.")
        self._restore()
        begun = time.perf_counter() - self.spent
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True, disable=not self.job.progress) as progress:
            task = progress.add_task(f"Training ({self.job.model})", total=self.steps, completed=self.step)
            while self.step < self.steps:
                epoch, offset = divmod(self.step, self.per_epoch)
                for stage in self.stages:
                    stage.train()
                for batch in self.batches.epoch(epoch, start=offset):
                    self._one(batch, time.perf_counter() - begun)
                    progress.advance(task)
                if evaluate is not None:
                    self.log.write(self.step, self.step / self.per_epoch, "validation", evaluate(self.fabric))
                self._save(time.perf_counter() - begun)
        return History(time.perf_counter() - begun, self.step, self.log.lines)

    def _restore(self) -> None:
        if not self.job.resume:
            self.checkpoints.delete()
            self.log.rewind(-1)
            return
        state = self.checkpoints.load()
        if state is not None:
            for stage, values in zip(self.stages, state["stages"], strict=True):
                stage.load_state(values)
            self.step, self.spent = state["step"], state["seconds"]
        self.log.rewind(self.step if state is not None else -1)

    def _one(self, batch: object, spent: float) -> None:
        """Make one step; log and save when due."""
        seed_everything(self.job.seed, self.job.model, "step", self.step)
        for stage in self.stages:
            stage.begin_step(self.step, self.steps, self.per_epoch)
        metrics = self.advance(self.fabric, self.stages, batch, self.step / max(1, self.steps - 1))  # type: ignore[arg-type]
        self.step += 1
        ends_epoch = self.step % self.per_epoch == 0
        saves = bool(self.config.checkpoint_every) and self.step % self.config.checkpoint_every == 0
        if self.step % self.config.log_every == 0 or saves or ends_epoch:
            self._note(metrics)
        if saves and not ends_epoch:
            self._save(spent)

    def _note(self, metrics: Mapping[str, Tensor]) -> None:
        """Log the step's figures; stop where one is not finite, before any checkpoint is written."""
        values = {name: float(value) for name, value in metrics.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"Training of the {self.job.model} model stopped at step {self.step} of {self.steps}: "
                f"{', '.join(bad)} not finite. Try a lower `engine.lr` or `method.removal_weight`, "
                "`engine.grad_clip=1`, or `engine.precision=32-true`. The last checkpoint is intact."
            )
        self.log.write(self.step, self.step / self.per_epoch, "train", values)

    def _save(self, spent: float) -> None:
        self.checkpoints.save(self.step, [stage.state() for stage in self.stages], spent)
        self.fabric.barrier()
