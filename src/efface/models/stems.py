"""Stems and widths of ResNets, for images much smaller than ImageNet's."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from efface.errors import ConfigError, expected


def takes_small_stem(model: nn.Module) -> bool:
    """Whether a model begins as a ResNet does: a strided convolution, then max-pooling."""
    stem, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    return isinstance(pool, nn.MaxPool2d) and type(stem) is nn.Conv2d and stem.stride == (2, 2)


def shrink_stem(model: nn.Module, name: str) -> None:
    """Make the stem 3×3 with stride 1 and drop the pooling, in place, as is usual for CIFAR-10.

    Source: He et al. 2016 (ResNet), section 4.2.

    Raises:
        ConfigError: The model has no stem of this kind.
    """
    if not takes_small_stem(model):
        hint = f"{name!r} has no such stem. Take stem='standard', or a ResNet, ResNeXt or Wide ResNet."
        raise ConfigError(expected("model.stem", "'auto' or 'standard' for this model", "small", hint))
    members: Any = model
    members.conv1 = _like(members.conv1, kernel_size=3, stride=1, padding=1)
    members.maxpool = nn.Identity()


def takes_width(name: str) -> bool:
    """Whether a timm name is a plain ResNet, whose base width can be chosen."""
    return re.fullmatch(r"resnet\d+", name.split(".")[0]) is not None


def narrow(model: nn.Module, width: int) -> nn.Module:
    """Carry a width other than 64 into the stem of a timm ResNet that was built with such ``channels``; in place.

    timm fixes the stem at 64 channels, and its first block would project those to the width.
    """
    from timm.models.resnet import BasicBlock, downsample_conv

    if width == 64:
        return model
    members: Any = model
    first = members.layer1[0]
    members.conv1 = _like(members.conv1, out_channels=width)
    members.bn1 = type(members.bn1)(width)
    first.conv1 = _like(first.conv1, in_channels=width)
    first.downsample = None
    if not isinstance(first, BasicBlock):
        first.downsample = downsample_conv(width, width * first.expansion, kernel_size=1)
        first.downsample[0] = _like(first.downsample[0])
    members.feature_info[0]["num_chs"] = width
    return model


def _like(layer: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    """Return a fresh convolution with a layer's settings but for the changes, initialised as ResNets are."""
    settings = {
        name: getattr(layer, name)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    }
    fresh = nn.Conv2d(**(settings | changes), bias=layer.bias is not None)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    return fresh
