"""Detachment behind a narrow, rounded passage: what the heads can't see must not get through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import torch
from torch import nn

from efface.config import MethodConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.errors import ConfigError, expected
from efface.heads.narrow import NarrowPassage
from efface.heads.positions import by_position, size_of
from efface.methods.layers import insert, ordered, peek
from efface.methods.penalised import Crew, PenalisedMethod, Site
from efface.models import split
from efface.objectives import DetachmentObjective, RemovalHeads

BATCHES = 16
"""Of 256 images, over which the channels' principal components are found."""


class Narrow(PenalisedMethod):
    """Detachment, with a layer at the first cut through which few, rounded channels pass."""

    name: ClassVar[str] = "narrow"
    summary: ClassVar[str] = "detachment behind a narrow, rounded passage at the cut"
    sections: ClassVar[tuple[str, ...]] = ("narrow",)

    def mount(self, model: nn.Module, at: Sequence[str], data: AttributeDataset, config: MethodConfig) -> None:
        """Put the passage at the first cut; at first the principal components of the channels pass.

        Raises:
            ConfigError: More channels are to pass than there are.
        """
        first, wanted = ordered(model, at)[0], config.narrow
        mean, covariance, shape = channel_moments(model, first, data)
        if wanted.channels > size_of(shape)[0]:
            most = f"at most {size_of(shape)[0]}, the channels at {first}"
            raise ConfigError(expected("method.narrow.channels", most, wanted.channels))
        passage = NarrowPassage(shape, wanted.channels, wanted.step, wanted.noise)
        insert(model, first, data, lambda _: passage)
        passage.fill(mean, covariance)

    def place(self, site: Site) -> Crew:
        """Return the detachment loss, as detachment itself has it."""
        heads = RemovalHeads(site.shape, site.priors, site.config)
        shapes = site.shape, site.data.image_shape
        objective = DetachmentObjective(*shapes, site.data.schema, heads, site.config, site.before)
        return Crew(objective, heads, heads)


def channel_moments(
    model: nn.Module, at: str, data: AttributeDataset
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Return mean ``[C]`` and covariance ``[C, C]`` of the channels over images and positions, and a sample's shape."""
    block, device = split(model, at).blocks[0], next(model.parameters()).device
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
