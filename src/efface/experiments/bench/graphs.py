"""A pipeline of blocks as one CUDA graph: what streams bring once the host no longer issues every kernel.

One round of the pipeline trains every block at once, block k on the batch that block 0 had k rounds before. All its
inputs lie at fixed places, so that a GPU can replay the round from one launch. A graph repeats numbers as they were
when it was captured: learning rate and progress stand still. That is why it measures a speed here and is no executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from efface.data.batches import Batch
from efface.engine.parallel.parcels import PassedBatch
from efface.engine.parallel.streams import Lane
from efface.engine.schedules import block_step
from efface.engine.stages import Stage
from efface.models.state import evaluating

PROGRESS = 0.5
"""Share of the training at which all steps are made."""
WARM_UP = 3
"""Rounds before the capture: libraries choose their kernels, optimisers make their states."""


@dataclass
class Place:
    """Where a block's input lies.

    Attributes:
        signal: What the block before made; the normalised images for the first.
        batch: Labels and pixels.
    """

    signal: Tensor
    batch: Batch

    def take(self, other: Place) -> None:
        """Copy another place's content here."""
        self.signal.copy_(other.signal, non_blocking=True)
        self.take_batch(other.batch)

    def take_batch(self, batch: Batch) -> None:
        """Copy pixels and labels here."""
        self.batch.pixels.copy_(batch.pixels, non_blocking=True)
        self.batch.target.copy_(batch.target, non_blocking=True)
        for name, labels in self.batch.attributes.items():
            labels.copy_(batch.attributes[name], non_blocking=True)
        self.batch.__dict__.pop("images", None)  # made of the pixels that were here before


class Pipeline:
    """Blocks that learn at the same time, on consecutive batches; on a GPU, a graph of all of them.

    Args:
        fabric: Device and precision.
        stages: One per block.
        batch: One of the batches to come: its shapes are those of all.
    """

    def __init__(self, fabric: Fabric, stages: Sequence[Stage], batch: Batch):
        self.fabric, self.stages = fabric, stages
        self.lanes = [Lane.on(fabric.device) for _ in stages]
        self.places = self._places(batch)
        self.filled = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self, batch: Batch) -> None:
        """Take a batch, and let every block learn from the batch that it has come to."""
        self.places[0].signal.copy_(batch.images, non_blocking=True)
        self.places[0].take_batch(batch)
        if self.filled < len(self.stages) - 1 + WARM_UP:
            self.filled += 1
            self._round(min(self.filled, len(self.stages)))
        elif self.fabric.device.type == "cuda":
            self._replay()
        else:
            self._round(len(self.stages))

    def _replay(self) -> None:
        if self._graph is None:
            torch.cuda.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # Captured, a round is noted and not made. Another thread reads batches into pinned memory meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._round(len(self.stages))
        self._graph.replay()

    def _round(self, blocks: int) -> None:
        """Let so many of the first blocks learn; then hand each one's features, and its batch, to the next."""
        made, begun = [], _now(self.fabric)
        for index in range(blocks):
            place, lane = self.places[index], self.lanes[index]
            with lane.entered(begun):
                _, features = block_step(self.fabric, self.stages[index], index, place.signal, place.batch, PROGRESS)
                made.append((features, lane.mark()))
        for _, event in made:
            if event is not None:
                torch.cuda.current_stream(self.fabric.device).wait_event(event)
        for index in reversed(range(1, min(blocks + 1, len(self.stages)))):
            self.places[index].take(Place(made[index - 1][0], self.places[index - 1].batch))

    def _places(self, batch: Batch) -> list[Place]:
        """Room for every block's input, by a dry run that trains nothing."""
        places, signal = [], batch.images
        for stage in self.stages:
            attributes = {name: labels.clone() for name, labels in batch.attributes.items()}
            room = PassedBatch(batch.pixels.clone(), batch.target.clone(), attributes)
            places.append(Place(signal.detach().clone(), room))
            with evaluating(stage.part.block), self.fabric.autocast():
                signal = stage.part.block(signal)
        return places


def capturable(stages: Sequence[Stage]) -> None:
    """Let the optimisers count their steps on the GPU, as a graph needs."""
    for stage in stages:
        for optimizer in stage.optimizers():
            for group in optimizer.param_groups:
                group["capturable"] = True


def _now(fabric: Fabric) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(fabric.device).record_event() if fabric.device.type == "cuda" else None
