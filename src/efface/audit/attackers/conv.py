"""A small convolutional network on the maps. Card: docs/attackers/conv.md."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.audit.attackers.resnet import grid_size, lay_out
from efface.audit.attackers.training import NetworkAttacker
from efface.shapes import Features, Logits

WIDEST = 16
"""Maps that are wider enter at half their height and width."""


class SmallConvolution(nn.Module):
    """Three convolutions, then means over quarters of the map and maxima over all of it.

    Args:
        channels: D.
        classes: Number of attribute classes.
        width: Channels of each convolution.
        side: Widest side of the maps.
        normalise: Whether the input is normalised, so that channels of small spread count as much as others.
    """

    def __init__(self, channels: int, classes: int, width: int, side: int, normalise: bool = True):
        super().__init__()
        self.entry = nn.BatchNorm2d(channels, affine=False) if normalise else nn.Identity()
        first = 2 if side > WIDEST else 1
        self.layers = nn.Sequential(
            *self._convolution(channels, width, first),
            *self._convolution(width, width, 2),
            *self._convolution(width, width, 1),
        )
        self.classify = nn.Sequential(nn.Dropout(0.3), nn.Linear(5 * width, classes))

    @staticmethod
    def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()]

    def forward(self, features: Features) -> Logits:
        """Return logits."""
        maps: Float[Tensor, "B E P Q"] = self.layers(self.entry(lay_out(features)))
        quarters = F.adaptive_avg_pool2d(maps, 2).flatten(1)
        return self.classify(torch.cat([quarters, maps.amax((2, 3))], 1))


class ConvAttacker(NetworkAttacker):
    """Three convolutions on whole maps; quick, and less easily led astray than a deep network."""

    name = "conv"
    width = 96
    learning_rate = 1e-3
    weight_decay = 0.05

    def applies(self, shape: tuple[int, ...], outputs: int = 0) -> str | None:
        """Say that vectors have no neighbours."""
        if max(grid_size(shape)) < 2:
            return f"`{self.name}` reads maps; features of shape {shape} have no neighbouring places."
        return None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh network."""
        _, channels, *size = lay_out(torch.empty(1, *shape, device="meta")).shape
        return SmallConvolution(channels, classes, self.width, max(size), self.scaling == "standardised")


class RawConvAttacker(ConvAttacker):
    """`conv` on features as released, without scaling of the channels."""

    name = "conv-raw"
    scaling = "raw"
