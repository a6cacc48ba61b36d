"""Peak memory of a training step by tensor accounting: every tensor is counted, none is computed.

Source: ``torch.distributed._tools.mem_tracker`` under fake tensors, which needs no GPU and little time. It counts
parameters, gradients, optimiser states, activations and temporary results as they come and go in the engine's own step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from efface.config import EngineConfig
from efface.data.batches import Batch
from efface.engine import Part
from efface.engine.devices import make_fabric
from efface.engine.schedules import SCHEDULES
from efface.engine.shortcuts import shortcuts_first
from efface.engine.stages import Stage
from efface.experiments.bench.workload import CLASSES, Load

KINDS = ("Parameter", "Buffer", "Gradient", "Activation", "Temp", "Optstate", "Other")


def tracked_peak(parts: Sequence[Part], load: Load, schedule: str) -> dict[str, float]:
    """Return the peak of the second step in MiB, by kind and in all (``Total``).

    Args:
        parts: Blocks and objectives; they are of no use afterwards, for their tensors are replaced by fake ones.
        load: Batch and image size.
        schedule: ``local`` or ``end_to_end``.
    """
    precision = load.precision if load.precision != "auto" else "32-true"
    config = EngineConfig.model_validate(
        {"schedule": schedule, "threads": torch.get_num_threads(), "precision": precision, "device": "cpu"}
    )
    fabric = make_fabric(config, len(parts))
    for part in parts:
        for module in (part.block, part.objective):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with FakeTensorMode():
        for part in parts:
            _make_fake(part.block, part.objective)
        stages = [Stage(part, fabric, config) for part in parts]
        modules = [module for stage in stages for module in stage.modules]
        tracker, batch = MemTracker(), _batch(load)
        tracker.track_external(
            *modules,
            *(optimizer for stage in stages for optimizer in stage.optimizers()),
            batch.pixels,
            batch.target,
        )
        with tracker, shortcuts_first(*modules):
            for step in range(2):  # the optimisers' states exist from the second on
                images = torch.zeros(batch.pixels.shape).to(memory_format=torch.channels_last)
                SCHEDULES[schedule](fabric, stages, replace(batch, images=images), 0.5)
                if not step:
                    tracker.reset_mod_stats()
        snapshot = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return {str(getattr(kind, "value", kind)): size / 2**20 for kind, size in snapshot.items()}


def _batch(load: Load) -> Batch:
    """A batch of fake tensors."""
    pixels = torch.zeros(load.batch, 3, load.size, load.size, dtype=torch.uint8)
    target = torch.zeros(load.batch, dtype=torch.long)
    return Batch(torch.zeros(pixels.shape), pixels, target, {"attribute": target % CLASSES})


def _make_fake(*roots: nn.Module) -> None:
    """Put fake tensors of the same shape and strides in place of parameters and buffers, shared ones once."""
    made: dict[int, Tensor] = {}
    for module in (module for root in roots for module in root.modules()):
        for members in (module._parameters, module._buffers):
            for name, value in members.items():
                if value is not None and not isinstance(value, FakeTensor):
                    members[name] = made.setdefault(id(value), _fake(value))  # type: ignore[assignment]


def _fake(value: Tensor) -> Tensor:
    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


__all__ = ["KINDS", "tracked_peak"]
