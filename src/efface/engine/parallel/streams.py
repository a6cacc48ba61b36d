"""``local_parallel`` on GPUs: a CUDA stream per block, on one device or on one device per block.

The host issues the steps in the order of ``local``; the device runs block k on batch t beside block k+1 on batch t−1:
only features make one stream wait for another. ``engine.devices`` says over how many GPUs the blocks are spread: 1, or
one per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from efface.data.batches import Batch
from efface.engine import loop
from efface.engine.job import Evaluate
from efface.engine.parallel.parcels import mapped
from efface.engine.schedules import Metrics, block_step
from efface.engine.stages import Stage
from efface.engine.training import Training
from efface.errors import ConfigError, expected

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Lane:
    """Where a block is computed.

    Attributes:
        device: Of the block.
        stream: Of the block's work; None off the GPU.
    """

    device: torch.device
    stream: torch.cuda.Stream | None = None

    @classmethod
    def on(cls, device: torch.device) -> Lane:
        """Return a lane with a stream of its own."""
        return cls(device, torch.cuda.Stream(device) if device.type == "cuda" else None)

    @contextmanager
    def entered(self, after: torch.cuda.Event | None) -> Iterator[None]:
        """Issue work here, to begin when ``after`` has come."""
        with ExitStack() as stack:
            if self.stream is not None:
                stack.enter_context(torch.cuda.device(self.device))
                stack.enter_context(torch.cuda.stream(self.stream))
                if after is not None:
                    self.stream.wait_event(after)
            yield

    def mark(self) -> torch.cuda.Event | None:
        """Return an event that comes when the work issued so far is done."""
        return self.stream.record_event() if self.stream is not None else None

    def take(self, tensor: Tensor) -> Tensor:
        """Return a tensor of another lane for use here: on this device, its memory kept until this lane is done."""
        if self.stream is not None and tensor.device.type == "cuda":
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
            here = tensor.to(self.device, non_blocking=True)
            here.record_stream(self.stream)
            return here
        return tensor.to(self.device, non_blocking=True)


def run(training: Training) -> None:
    """Make all steps on streams.

    Raises:
        ConfigError: ``engine.devices`` is neither 1 nor the number of blocks, or there are not so many GPUs.
    """
    lanes = [Lane.on(device) for device in _devices(training)]
    _place(training.stages, [lane.device for lane in lanes])
    evaluate = training.evaluate and _at_home(training.evaluate, training.stages, lanes)
    try:
        loop.run(replace(training, evaluate=evaluate), _step(training, lanes))
    finally:
        _place(training.stages, [training.fabric.device] * len(lanes))


def _step(training: Training, lanes: Sequence[Lane]) -> Callable[..., Metrics]:
    def advance(fabric: Fabric, stages: Sequence[Stage], batch: Batch, progress: float) -> Metrics:
        metrics = streamed_step(lanes, fabric, stages, batch, progress)
        if training.ledger.plan.logs(training.ledger.step + 1):
            _wait(lanes)  # figures and states are read by the host next
        return metrics

    return advance


def streamed_step(
    lanes: Sequence[Lane], fabric: Fabric, stages: Sequence[Stage], batch: Batch, progress: float
) -> Metrics:
    """Issue one batch's steps of all blocks, each on its lane."""
    metrics: Metrics = {}
    signal = batch.images
    made = Lane(signal.device, torch.cuda.current_stream(signal.device) if signal.is_cuda else None).mark()
    for index, (stage, lane) in enumerate(zip(stages, lanes, strict=True)):
        with lane.entered(made):
            signal, here = lane.take(signal), _taken(lane, batch)
            found, signal = block_step(fabric, stage, index, signal, here, progress)
            made = lane.mark()
        metrics |= found
    return metrics


def _taken(lane: Lane, batch: Batch) -> Batch:
    """Return the batch for use on a lane; its images are made from the pixels where a later block asks for them."""
    if lane.stream is None:
        return batch
    return mapped(batch, lane.take)


def _devices(training: Training) -> list[torch.device]:
    """One device for all blocks, or one for each."""
    count, wanted, home = len(training.stages), training.config.devices, training.fabric.device
    if wanted == 1 or home.type != "cuda":
        return [home] * count
    if wanted != count or torch.cuda.device_count() < count:
        wanted_text = f"1, or {count}: one GPU per block (there are {torch.cuda.device_count()} GPUs)"
        raise ConfigError(expected("engine.devices", wanted_text, wanted))
    return [torch.device("cuda", number) for number in range(count)]


def _place(stages: Sequence[Stage], devices: Sequence[torch.device]) -> None:
    """Move each block, with its heads and optimisers, to its device."""
    for stage, device in zip(stages, devices, strict=True):
        for module in stage.modules:
            module.to(device)
        for optimizer in stage.optimizers():
            optimizer.load_state_dict(optimizer.state_dict())  # moves the state to where the parameters are


def _at_home(evaluate: Evaluate, stages: Sequence[Stage], lanes: Sequence[Lane]) -> Evaluate:
    """Gather the blocks on one device for the evaluation."""

    def evaluated(fabric: Fabric) -> Mapping[str, float]:
        _wait(lanes)
        _place(stages, [fabric.device] * len(lanes))
        figures = evaluate(fabric)
        _place(stages, [lane.device for lane in lanes])
        return figures

    return evaluated


def _wait(lanes: Sequence[Lane]) -> None:
    for lane in lanes:
        if lane.stream is not None:
            lane.stream.synchronize()
