"""The paper's attacker: a decoder with ResNet-18 as its backbone. Card: docs/attackers/resnet18.md."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.audit.attackers.training import NetworkAttacker
from efface.shapes import Features, Logits

LARGEST = 4
"""Widest map that enters the residual stages: the stem halves wider ones, as ResNet's own stem does twice.

Narrower is cheaper, and reads weak signals no worse: see the card."""


class SmallMapConvolution(nn.Module):
    """A convolution with an output of at most 2×2, as one matrix product.

    The result is the same. On such maps the usual kernels spend nearly all of their time on weight layouts, and taps
    that only ever meet padding (eight of nine on a map of one pixel) would be trained for nothing: they are left out.

    Args:
        layer: The convolution to replace; its weights are taken over.
        size: Height and width of the maps that come in.
    """

    places: Tensor

    def __init__(self, layer: nn.Conv2d, size: tuple[int, int]):
        super().__init__()
        stride, padding = layer.stride[0], int(layer.padding[0])
        self.after = (_output(size[0], stride), _output(size[1], stride))
        rows, columns = (
            _live_taps(before, after, stride, padding) for before, after in zip(size, self.after, strict=True)
        )
        kept = layer.weight.detach()[:, :, rows][:, :, :, columns]
        self.weight = nn.Parameter(kept.movedim(1, 3).flatten(1).clone())
        # Which pixel each tap of each output reads; padding is one more pixel, the last.
        pixels = F.pad(torch.arange(size[0] * size[1]).view(size), [padding] * 4, value=size[0] * size[1])
        windows = pixels.unfold(0, layer.kernel_size[0], stride).unfold(1, layer.kernel_size[1], stride)
        self.register_buffer("places", windows[:, :, rows][:, :, :, columns].flatten(), persistent=False)

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E P Q"]:
        """Convolve."""
        pixels = F.pad(maps.flatten(2).transpose(1, 2), (0, 0, 0, 1))
        patches = pixels.index_select(1, self.places).view(len(maps), self.after[0] * self.after[1], -1)
        return F.linear(patches, self.weight).transpose(1, 2).unflatten(2, self.after)


def _output(side: int, stride: int, padding: int = 1, kernel: int = 3) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def _live_taps(before: int, after: int, stride: int, padding: int, kernel: int = 3) -> list[int]:
    """Rows (or columns) of a kernel that ever meet the map."""
    starts = [stride * place - padding for place in range(after)]
    return [tap for tap in range(kernel) if any(0 <= start + tap < before for start in starts)]


class ResNetDecoder(nn.Module):
    """A stem from D channels to 64, then the four stages of ResNet-18.

    Args:
        channels: D.
        size: Height and width of the maps.
        classes: Number of attribute classes.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int):
        super().__init__()
        from torchvision.models.resnet import BasicBlock, ResNet

        network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes, zero_init_residual=True)
        stride = 2 ** max(0, math.ceil(math.log2(max(size) / LARGEST)))
        # Wide enough that no place is stepped over.
        kernel = max(3, 2 * stride - 1)
        network.conv1 = nn.Conv2d(channels, 64, kernel, stride, kernel // 2, bias=False)
        network.maxpool = nn.Identity()
        size = (-(-size[0] // stride), -(-size[1] // stride))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                block.conv1, size = _quick(block.conv1, size)
                block.conv2, size = _quick(block.conv2, size)
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.network = network

    def forward(self, features: Features) -> Logits:
        """Return logits."""
        return self.network(lay_out(features))


def _quick(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """Return the layer, or its equal for small maps, and the size of what comes out."""
    after = (_output(size[0], layer.stride[0]), _output(size[1], layer.stride[0]))
    return (SmallMapConvolution(layer, size) if max(after) <= 2 else layer), after


class ResNetAttacker(NetworkAttacker):
    """A decoder with ResNet-18 as its backbone, on whole maps: the paper's attacker."""

    name = "resnet18"
    learning_rate = 1e-3
    weight_decay = 0.05

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh decoder."""
        _, channels, height, width = lay_out(torch.empty(1, *shape, device="meta")).shape
        return ResNetDecoder(channels, (height, width), classes)


class MixedResNetAttacker(ResNetAttacker):
    """`resnet18` learning from mixtures of people: for strong signals, which it otherwise learns by heart."""

    name = "resnet18-mixed"
    learning_rate = 2e-3
    mixup = 1.0


def lay_out(features: Features) -> Float[Tensor, "B D H W"]:
    """Return features as maps: tokens on their square grid, vectors as a map of one pixel.

    Tokens beyond the grid (a class token comes first) are averaged and stand beside every cell, as more channels.

    Example:
        >>> lay_out(torch.zeros(2, 65, 192)).shape, lay_out(torch.zeros(2, 5)).shape
        (torch.Size([2, 384, 8, 8]), torch.Size([2, 5, 1, 1]))
    """
    if features.ndim == 4:
        return features.contiguous(memory_format=torch.channels_last)
    if features.ndim == 2:
        return features[:, :, None, None]
    side = math.isqrt(features.shape[1])
    extra = features.shape[1] - side * side
    grid = features[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    if extra:
        first = features[:, :extra].mean(1)[:, :, None, None].expand_as(grid)
        grid = torch.cat([grid, first], 1)
    return grid.contiguous(memory_format=torch.channels_last)


def grid_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of the map that features of this shape are laid out as.

    Example:
        >>> grid_size((128, 8, 8)), grid_size((65, 192)), grid_size((512,))
        ((8, 8), (8, 8), (1, 1))
    """
    _, _, height, width = lay_out(torch.empty(1, *shape, device="meta")).shape
    return height, width
