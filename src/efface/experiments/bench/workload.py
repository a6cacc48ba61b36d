"""What the benchmarks train: noise of CIFAR's shape, and a network in blocks with auxiliary networks."""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batch
from efface.data.dataset import AttributeDataset, build_schema
from efface.engine import Job, Part, fit
from efface.heads import build_head
from efface.methods.detachment import attribute_priors
from efface.models import build, split
from efface.objectives import ClassifierObjective, DetachmentObjective, RemovalHeads, Terms
from efface.shapes import Progress

CLASSES = 10


@dataclass(frozen=True)
class Load:
    """What is trained in a benchmark.

    Attributes:
        model: Name of the network.
        width: Base channels of a ResNet.
        at: Where it is cut.
        batch: Images of a step.
        size: Pixels a side.
        steps: Steps that are timed in a sample.
        skip: Steps before them that are not.
        auxiliary: ``head``: a target head on every block but the last; ``full``: the detachment loss with its decoder,
            target head and removal heads.
        precision: Of training; ``auto`` is bfloat16 where the hardware computes it.
    """

    model: str = "resnet18"
    width: int | None = 64
    at: tuple[str, ...] = ("layer2",)
    batch: int = 128
    size: int = 32
    steps: int = 8
    skip: int = 3
    auxiliary: Literal["head", "full"] = "head"
    precision: str = "auto"

    def of(self, model: str) -> Load:
        """Return the same with another network; the width is that of a ResNet of two-layer blocks, others have theirs.

        Example:
            >>> Load().of("resnet50").width is None
            True
        """
        return replace(self, model=model, width=self.width if model in ("resnet18", "resnet34") else None)

    def settings(self) -> dict[str, Any]:
        """Return the settings for the report."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"at": "+".join(self.at)}


def noise(rows: int, size: int, seed: int = 0) -> AttributeDataset:
    """Return random images with ten target classes and one attribute; ``rows`` are for training."""
    generator = np.random.default_rng(seed)
    total = rows + 80
    images = generator.integers(0, 256, (total, 3, size, size), np.uint8)
    labels = {"target": np.arange(total) % CLASSES, "attribute": np.arange(total) // CLASSES % 2}
    splits = {"train": np.arange(rows), "validation": np.arange(rows, rows + 40), "test": np.arange(rows + 40, total)}
    classes = {"target": tuple(map(str, range(CLASSES))), "attribute": ("no", "yes")}
    schema = build_schema(labels, classes, splits, "target", ["attribute"])
    return AttributeDataset(images, labels, splits, schema, name="noise")


def network(load: Load) -> nn.Module:
    """Return the network with fresh weights, the same every time."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"width": load.width} if load.width is not None else {}
    return build(load.model, CLASSES, load.size, **options)


class HeadObjective(nn.Module):
    """The least auxiliary network: a target head with its cross-entropy."""

    def __init__(self, feature_shape: Sequence[int]):
        super().__init__()
        self.head = build_head("conv", feature_shape, CLASSES, 64)

    def forward(self, features: Tensor, batch: Batch, progress: Progress) -> Terms:
        """Return the loss."""
        del progress
        return Terms(F.cross_entropy(self.head(features)[0], batch.target))


def parts_of(load: Load, data: AttributeDataset, blocks: bool = True) -> list[Part]:
    """Return the network in blocks with their auxiliary networks, or whole."""
    model = network(load)
    if not blocks:
        return [Part(model, ClassifierObjective())]
    cut = split(model, load.at)
    signal, parts = torch.zeros(2, 3, load.size, load.size), []
    cut.eval()
    for block in cut.blocks[:-1]:
        with torch.no_grad():
            signal = block(signal)
        parts.append(_part(block, signal.shape[1:], load, data))
    cut.train()
    return [*parts, Part(cut.blocks[-1], ClassifierObjective())]


def _part(block: nn.Module, shape: Sequence[int], load: Load, data: AttributeDataset) -> Part:
    if load.auxiliary == "head":
        return Part(block, HeadObjective(shape))
    config = MethodConfig()
    heads = RemovalHeads(shape, attribute_priors(data, config), config)
    objective = DetachmentObjective(shape, data.image_shape, data.schema, heads, config)
    return Part(block, objective, heads, config.head_lr, config.inner_steps, config.restart_every)


class Stopwatch(nn.Module):
    """Notes when the last block's objective is reached, in memory that a forked process shares.

    Args:
        inner: The objective.
        capacity: Times that can be noted.
    """

    def __init__(self, inner: nn.Module, capacity: int):
        super().__init__()
        self.inner = inner
        self._board = torch.frombuffer(mmap.mmap(-1, 8 * (capacity + 1)), dtype=torch.float64)

    def forward(self, features: Tensor, batch: Batch, progress: Progress) -> Terms:
        """Note the time, and return the loss."""
        noted = int(self._board[0])
        self._board[noted + 1] = time.monotonic()
        self._board[0] = noted + 1
        return self.inner(features, batch, progress)

    def intervals(self) -> list[float]:
        """Seconds between consecutive steps."""
        return self._board[1 : 1 + int(self._board[0])].diff().tolist()


def step_seconds(load: Load, data: AttributeDataset, schedule: str, threads: int, blocks: bool = True) -> float:
    """Train for a few steps through the engine; return the median seconds from step to step."""
    parts = parts_of(load, data, blocks)
    watch = Stopwatch(parts[-1].objective, load.steps + load.skip + 1)
    parts[-1] = replace(parts[-1], objective=watch)
    config = EngineConfig.model_validate(
        {
            "schedule": schedule,
            "threads": threads,
            "epochs": 1,
            "batch_size": load.batch,
            "precision": load.precision,
            "device": "cpu",
            "log_every": 20,
        }
    )
    fit(parts, data, config, Job(progress=False, augment=(True, 4)))
    return float(np.median(watch.intervals()[load.skip :]))


def rows_of(load: Load) -> int:
    """Training images that one sample needs."""
    return load.batch * (load.steps + load.skip + 1)
