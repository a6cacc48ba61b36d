"""Detachment behind a narrow, rounded passage: what the heads can't see must not get through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import torch
from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.engine.devices import make_fabric
from efface.errors import ConfigError, expected
from efface.heads.narrow import NarrowPassage
from efface.heads.positions import by_position, size_of
from efface.methods.detachment import Detachment
from efface.methods.layers import insert, peek
from efface.models import split

BATCHES = 16
"""Of 256 images, over which the channels' principal components are found."""


class Narrow(Detachment):
    """Detachment, with a layer at the first cut through which few, rounded channels pass."""

    name: ClassVar[str] = "narrow"
    summary: ClassVar[str] = "detachment behind a narrow, rounded passage at the cut"

    def mount(
        self, model: nn.Module, at: Sequence[str], data: AttributeDataset, config: MethodConfig, engine: EngineConfig
    ) -> bool:
        """Put the passage at the first cut; at first the principal components of the channels pass.

        Raises:
            ConfigError: More channels are to pass than there are.
        """
        device = make_fabric(engine).device
        model.to(device)
        block = split(model, at[0]).blocks[0]
        mean, covariance, shape = channel_moments(block, data, device)
        if config.narrow.channels > size_of(shape)[0]:
            most = f"at most {size_of(shape)[0]}, the channels at {at[0]}"
            raise ConfigError(expected("method.narrow.channels", most, config.narrow.channels))
        layer = insert(
            model, at[0], data, lambda shape: NarrowPassage(shape, config.narrow.channels, config.narrow.step)
        )
        assert isinstance(layer, NarrowPassage)
        layer.fill(mean, covariance)
        return True


def channel_moments(
    block: nn.Module, data: AttributeDataset, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Return mean ``[C]`` and covariance ``[C, C]`` of the channels over images and positions, and a sample's shape."""
    count, shape = 0, tuple[int, ...]()
    total = products = torch.zeros((), dtype=torch.float64, device=device)
    for batch in islice(Batches(data, "train", 256, device, augment=None).sequential(), BATCHES):
        features = peek(block, batch.images)
        values = by_position(features).transpose(1, 2).flatten(0, 1).double()
        count, shape = count + len(values), tuple(features.shape[1:])
        total, products = total + values.sum(0), products + values.T @ values
    mean = total / count
    return mean, products / count - torch.outer(mean, mean), shape


__all__ = ["Narrow"]
