"""``local_parallel`` on one GPU as CUDA graphs: the host launches a round of all blocks at once, not kernel by kernel.

One round of the pipeline trains every block, block k on the batch that block 0 had k rounds before, each on a stream.
All its inputs lie at fixed places on the device, learning rates and weights included, so that the GPU can replay a
round that was captured once. The rounds in which the pipeline fills or drains (at checkpoints and ends of epochs), and
those after a head has started afresh, are made kernel by kernel.

The steps are those of ``local``. Random layers draw other numbers than there: all blocks of a round share one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.data.batches import Batch
from efface.engine import loop
from efface.engine.parallel.parcels import mapped, tensors_of
from efface.engine.parallel.streams import Lane
from efface.engine.parallel.worker import begin
from efface.engine.schedules import Metrics, block_step
from efface.engine.seeds import seed_everything
from efface.engine.stages import Stage
from efface.engine.training import Training
from efface.errors import TrainingError
from efface.models.state import evaluating

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WARM_UP = 3
"""Rounds before a capture: libraries choose their kernels, optimisers make their states."""


@dataclass
class Place:
    """Where a block's input lies.

    Attributes:
        signal: What the block before made; the normalised images for the first.
        batch: Labels and pixels.
        progress: Share of the training at which the block is, float64.
        step: Number of the step that the batch is for; None: there is no batch.
    """

    signal: Tensor
    batch: Batch
    progress: Tensor
    step: int | None = None

    def take(self, signal: Tensor, batch: Batch) -> None:
        """Copy features and their batch here."""
        self.signal.copy_(signal, non_blocking=True)
        for room, found in zip(tensors_of(self.batch), tensors_of(batch), strict=True):
            room.copy_(found, non_blocking=True)
        self.batch.__dict__.pop("images", None)  # made of the pixels that were here before


class Pipeline:
    """Blocks that learn at the same time, on consecutive batches; on a GPU, a graph of all of them.

    Args:
        fabric: Device and precision.
        stages: One per block; on a GPU their optimisers keep rates and counts on the device from now on.
        batch: One of the batches to come: its shapes are those of all.
    """

    def __init__(self, fabric: Fabric, stages: Sequence[Stage], batch: Batch):
        self.fabric, self.stages = fabric, stages
        self.lanes = [Lane.on(fabric.device) for _ in stages]
        self.places = self._places(batch)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm, self._captured = 0, _no_figures(stages)
        if fabric.device.type == "cuda":
            _keep_on_device(stages, fabric.device)

    @property
    def occupied(self) -> list[int]:
        """Numbers of the blocks that have a batch to learn from."""
        return [index for index, place in enumerate(self.places) if place.step is not None]

    def load(self, batch: Batch, step: int) -> None:
        """Put a batch before the first block."""
        self.places[0].take(batch.images, batch)
        self.places[0].step = step

    def forget(self) -> None:
        """Capture anew: something has been replaced that the graph reads where it was."""
        self._graph, self._warm = None, 0

    def advance(self) -> list[Metrics]:
        """Let every block that has a batch learn from it, and hand the batches on; return the figures of all blocks.

        Where a round is replayed the figures are overwritten by the next one.

        Raises:
            TrainingError: The steps can't be captured as a CUDA graph.
        """
        active = self.occupied
        if len(active) == len(self.stages) and self.fabric.device.type == "cuda" and self._warm >= WARM_UP:
            found = self._replay()
        else:
            self._warm += len(active) == len(self.stages)
            found = self._round(active)
        steps = [place.step for place in self.places]
        for place, step in zip(self.places, [None, *steps], strict=False):
            place.step = step
        return found

    def _replay(self) -> list[Metrics]:
        if self._graph is None:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                # Captured, a round is noted and not made. Another thread reads batches into pinned memory meanwhile.
                with (
                    torch.cuda.stream(torch.cuda.current_stream(self.fabric.device)),
                    torch.cuda.graph(graph, capture_error_mode="thread_local"),
                ):
                    self._captured = self._round(range(len(self.stages)))
            except Exception as error:
                # The end of the capture has an error of its own, about the one that ended it.
                reason = str(error.__context__ or error).strip().splitlines()[0]
                raise TrainingError(
                    f"The steps can't be replayed as a CUDA graph: {reason} Train with `engine.graphs=false`."
                ) from error
            self._graph = graph
        self._graph.replay()
        return self._captured

    def _round(self, blocks: Sequence[int]) -> list[Metrics]:
        """Let these blocks learn; then hand each one's features, and its batch, to the next."""
        figures = _no_figures(self.stages)
        made, begun = {}, _now(self.fabric)
        for index in blocks:
            place, lane = self.places[index], self.lanes[index]
            with lane.entered(begun):
                step = block_step(self.fabric, self.stages[index], index, place.signal, place.batch, place.progress)
                figures[index], made[index] = step
                finished = lane.mark()
            if finished is not None:
                torch.cuda.current_stream(self.fabric.device).wait_event(finished)
        for index in reversed(blocks):
            if index + 1 < len(self.places):
                self.places[index + 1].take(made[index], self.places[index].batch)
        return figures

    def _places(self, batch: Batch) -> list[Place]:
        """Room for every block's input, by a dry run that trains nothing."""
        places, signal = [], batch.images
        for stage in self.stages:
            room = mapped(batch, torch.clone)
            progress = torch.zeros((), dtype=torch.float64, device=signal.device)
            places.append(Place(signal.detach().clone(), room, progress))
            with evaluating(stage.part.block), self.fabric.autocast():
                signal = stage.part.block(signal)
        return places


def run(training: Training) -> None:
    """Make all steps.

    Raises:
        TrainingError: The steps can't be captured as a CUDA graph.
    """
    rounds = _Rounds(training)
    loop.drive(training, rounds.take, rounds.finish)


@dataclass
class _Rounds:
    """The pipeline at work: what is due before and after each round."""

    training: Training
    pipeline: Pipeline | None = None
    figures: dict[int, Metrics] = field(default_factory=dict)

    def take(self, batch: Batch) -> None:
        """Make the round in which the first block learns from this batch."""
        training, ledger = self.training, self.training.ledger
        if self.pipeline is None:
            self.pipeline = Pipeline(training.fabric, training.stages, batch)
        self.pipeline.load(batch, ledger.step)
        ledger.step += 1
        self._round(self.pipeline)

    def finish(self) -> None:
        """Let every block learn from all batches that were taken."""
        while self.pipeline is not None and self.pipeline.occupied:
            self._round(self.pipeline)

    def _round(self, pipeline: Pipeline) -> None:
        training, plan = self.training, self.training.ledger.plan
        steps = [place.step for place in pipeline.places]
        for index, step in enumerate(steps):
            if step is not None:
                begin(training, index, step)
                training.stages[index].settle()  # not in the round: it is not due in each
                pipeline.places[index].progress.fill_(plan.progress(step))
                if training.stages[index].turn(step, plan.steps, plan.per_epoch) is not None:
                    pipeline.forget()
        numbers = (-1 if step is None else step for step in steps)
        seed_everything(training.job.seed, training.job.model, "round", *numbers)
        for step, found in zip(steps, pipeline.advance(), strict=True):
            if step is not None and plan.logs(step + 1):
                # Copied: a replayed round writes its figures where those of the last one were.
                known = self.figures.setdefault(step + 1, {})
                known |= {name: value.clone() for name, value in found.items()}
        if steps[-1] is not None and steps[-1] + 1 in self.figures:
            training.ledger.note(steps[-1] + 1, self.figures.pop(steps[-1] + 1))


def _no_figures(stages: Sequence[Stage]) -> list[Metrics]:
    return [{} for _ in stages]


def _keep_on_device(stages: Sequence[Stage], device: torch.device) -> None:
    """Let the optimisers keep rates and counts on the GPU, where a graph reads them."""
    for stage in stages:
        for optimizer in stage.optimizers():
            # The rounds that are made kernel by kernel are meant to be.
            optimizer._warned_capturable_if_run_uncaptured = True
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=device)


def _now(fabric: Fabric) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(fabric.device).record_event() if fabric.device.type == "cuda" else None
