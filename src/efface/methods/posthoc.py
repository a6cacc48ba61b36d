"""Methods that fit a layer to finished features and put it at the cut: no gradient step of the extractor."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batch, Batches
from efface.data.dataset import AttributeDataset
from efface.engine import Job
from efface.engine.devices import make_fabric
from efface.engine.seeds import derive
from efface.heads.release import Release
from efface.methods.base import Method, UnlearnedModel
from efface.methods.layers import insert, ordered, peek, settle
from efface.models import split
from efface.shapes import Features

ROUNDING = 1e-6
"""Spread of an attribute's numbers, as a share of the largest, up to which it is rounding."""


@dataclass(frozen=True)
class Stream:
    """Features of the train split, batch by batch, as often as one likes: unaugmented, in evaluation mode, float32.

    Attributes:
        block: Images to features.
        data: Where the images come from.
        config: Settings of the method.
        device: Where features are computed.
        seed: For learners that draw.
        batch_size: Images per batch.
    """

    block: nn.Module
    data: AttributeDataset
    config: MethodConfig
    device: torch.device
    seed: int
    batch_size: int = 256

    def __iter__(self) -> Iterator[tuple[Features, Batch]]:
        for batch in Batches(self.data, "train", self.batch_size, self.device, augment=None).sequential():
            yield peek(self.block, batch.images), batch


class PostHocMethod(Method):
    """Learns a layer from a stream of features, mounts it, and lets the classifier settle on what is released."""

    sections: ClassVar[tuple[str, ...]] = ("eraser",)

    @abstractmethod
    def learn(self, stream: Stream, shape: tuple[int, ...]) -> Release:
        """Return the layer, fitted."""

    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Fit a layer at every cut, from input to output, then train the classifier on top.

        Raises:
            ConfigError: A setting does not fit the data, or there is a layer already.
            CutError: The model can't be cut there.
        """
        self.check(config, data)
        device = make_fabric(engine).device
        begun = time.perf_counter()
        model.to(device)
        cuts = ordered(model, at)
        for name in cuts:
            stream = Stream(split(model, name).blocks[0], data, config, device, derive(job.seed, self.name, name))
            insert(model, name, data, lambda shape, stream=stream: self.learn(stream, shape))  # type: ignore[misc]
        fitted = time.perf_counter() - begun
        history = settle(model, cuts, data, config.eraser.settle_epochs, engine, job)
        return UnlearnedModel(model, cuts, self.name, replace(history, seconds=history.seconds + fitted))


__all__ = ["PostHocMethod", "Stream"]
