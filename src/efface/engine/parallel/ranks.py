"""``local_parallel`` under torchrun: a rank per block, features from rank to rank by ``torch.distributed``.

Gloo on CPUs, NCCL on GPUs, on one machine or several. With R times as many ranks as blocks, each block has R replicas
that share its batches and average their gradients (rank = block·R + replica). Between checkpoints a rank waits for its
neighbours only; at a checkpoint, and after each epoch, all exchange figures and states.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from efface.engine.ledger import Bar
from efface.engine.parallel.parcels import Parcel, buffer_sizes, pack, unpack
from efface.engine.parallel.ring import DEPTH
from efface.engine.parallel.worker import BatchSource, run_block
from efface.engine.schedules import Metrics
from efface.engine.training import Training
from efface.errors import CheckpointError, ConfigError, TrainingError, expected


def run(training: Training) -> None:
    """Make the steps of this rank's block; every rank ends with the weights of all blocks.

    Raises:
        ConfigError: The number of ranks is no multiple of the number of blocks.
        CheckpointError: Not every rank found the checkpoint to resume from.
        TrainingError: The loss is not finite, or another rank has gone.
    """
    blocks, rank, world = len(training.stages), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world % blocks:
        raise ConfigError(expected("--nproc-per-node", f"a multiple of the {blocks} blocks in all", world))
    replicas = world // blocks
    block, device = rank // replicas, training.fabric.device
    control = _connect(device, training)
    if replicas > 1:
        _share_gradients(training, block, replicas, device)
    size = max(buffer_sizes(training))
    count = training.ledger.plan.steps - training.ledger.step
    source = BatchSource(training) if block == 0 else _Inbox(rank - replicas, size, count, device)
    sink = _Outbox(rank + replicas, size, device) if block < blocks - 1 else None
    try:
        with training.ledger.bar() as bar:
            run_block(training, block, source, sink, _Books(training, block, replicas, control, bar))
            if sink is not None:
                sink.finish()
    except BaseException as error:
        dist.destroy_process_group()  # who waits for this rank learns of it now, not at a time-out
        if isinstance(error, RuntimeError) and not isinstance(error, TrainingError):
            raise TrainingError(
                f"Rank {rank} (block {block + 1} of {blocks}) stopped: {error}. If another rank has gone, its own "
                "message says why. The last checkpoint is intact; start again with resume."
            ) from error
        raise
    training.ledger.step = training.ledger.plan.steps


def _connect(device: torch.device, training: Training) -> Any:
    """Join the other ranks; return the group for objects, which always travels by the CPU."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    control = dist.new_group(backend="gloo") if device.type == "cuda" else None
    steps: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(steps, training.ledger.step, group=control)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"The ranks resume from steps {steps}: not all of them read the same checkpoint. Its folder must "
            "be one that all machines share."
        )
    return control


def _share_gradients(training: Training, block: int, replicas: int, device: torch.device) -> None:
    """Let the replicas of each block average their gradients."""
    groups = [dist.new_group(range(b * replicas, (b + 1) * replicas)) for b in range(len(training.stages))]
    ids = [device] if device.type == "cuda" else None

    def wrapped(module: nn.Module) -> nn.Module:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        return DistributedDataParallel(module, ids, process_group=groups[block], find_unused_parameters=True)

    training.stages[block].wrap(wrapped)


class _Outbox:
    """Sends parcels to the next block; a buffer is written again when it has left."""

    def __init__(self, rank: int, size: int, device: torch.device):
        self.rank = rank
        self._free = deque(torch.empty(size, dtype=torch.uint8, device=device) for _ in range(DEPTH))
        self._leaving: deque[tuple[Any, Tensor]] = deque()

    def put(self, parcel: Parcel) -> None:
        """Send a parcel; wait if both buffers are still on their way."""
        if not self._free:
            self._wait()
        buffer = self._free.popleft()
        pack(parcel, buffer)
        self._leaving.append((dist.isend(buffer, self.rank), buffer))

    def finish(self) -> None:
        """Wait until everything has left."""
        while self._leaving:
            self._wait()

    def _wait(self) -> None:
        work, buffer = self._leaving.popleft()
        work.wait()
        self._free.append(buffer)


class _Inbox:
    """Receives parcels from the block before, as many ahead as there are buffers."""

    def __init__(self, rank: int, size: int, count: int, device: torch.device):
        self.rank, self._left = rank, count
        self._coming: deque[tuple[Any, Tensor]] = deque()
        self._held: Tensor | None = None
        for _ in range(DEPTH):
            self._expect(torch.empty(size, dtype=torch.uint8, device=device))

    def get(self) -> Parcel:
        """Return the next parcel; wait for it if need be."""
        work, self._held = self._coming.popleft()
        work.wait()
        return unpack(self._held)

    def release(self) -> None:
        """Give the last parcel's buffer back."""
        assert self._held is not None
        self._expect(self._held)
        self._held = None

    def _expect(self, buffer: Tensor) -> None:
        if self._left:
            self._left -= 1
            self._coming.append((dist.irecv(buffer, self.rank), buffer))


class _Books:
    """Keeps a block's figures until a checkpoint is due; then all ranks exchange figures and states."""

    def __init__(self, training: Training, block: int, replicas: int, control: Any, bar: Bar):
        self.training, self.block, self.replicas, self.control, self.bar = training, block, replicas, control, bar
        self._figures: dict[int, dict[str, float]] = {}

    def __call__(self, done: int, metrics: Metrics) -> None:
        """Take the figures of a step, and act if a checkpoint or the end of an epoch has come."""
        ledger = self.training.ledger
        self.bar.show(done)
        if ledger.plan.logs(done):
            self._figures[done] = {name: float(value) for name, value in metrics.items()}
            ledger.check(done, self._figures[done])
        if ledger.plan.saves(done):
            self._exchange(done)

    def _exchange(self, done: int) -> None:
        training, ledger = self.training, self.training.ledger
        mine = self._figures, _on_cpu(training.stages[self.block].state())
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine, group=self.control)
        figures, states = zip(*everyone[:: self.replicas], strict=True)
        for step in sorted(self._figures):
            ledger.note(step, {name: value for block in figures for name, value in block[step].items()})
        self._figures = {}
        if ledger.plan.ends_epoch(done):
            for number, (stage, state) in enumerate(zip(training.stages, states, strict=True)):
                # Replicas have the same parameters; their running moments are each one's own, the first's count.
                if number != self.block or self.replicas > 1:
                    stage.load_modules(state)
            if training.evaluate is not None and ledger.writes:
                ledger.validated(done, training.evaluate(training.fabric))
                training.stages[self.block].train()
        ledger.save(done, list(states))


def _on_cpu(state: Any) -> Any:
    """Return a state with its tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list | tuple) else state
