"""Features as channels at positions, and positions in groups: what layers at the cut read and write.

Maps ``[B, D, H, W]`` have H·W positions, tokens ``[B, T, D]`` T, vectors ``[B, D]`` one. A layer that cannot afford to
read every position reads the mean of each group of neighbours instead. Groups are a partition, so that writing a
change back to all positions of a group changes its mean by exactly that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.heads.layout import map_shape
from efface.shapes import Features


def by_position(features: Features) -> Float[Tensor, "B D P"]:
    """Lay features out as channels at positions.

    Example:
        >>> by_position(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 192, 65])
    """
    if features.ndim == 3:
        return features.transpose(1, 2)
    return features.flatten(2) if features.ndim == 4 else features[:, :, None]


def from_positions(values: Float[Tensor, "B D P"], feature_shape: Sequence[int]) -> Features:
    """Give values by position the features' own shape: the inverse of :func:`by_position`.

    Example:
        >>> from_positions(torch.zeros(2, 192, 65), (65, 192)).shape
        torch.Size([2, 65, 192])
    """
    if len(feature_shape) == 2:
        return values.transpose(1, 2)
    return values.reshape(len(values), *feature_shape)


def position_groups(feature_shape: Sequence[int], limit: int) -> Int[Tensor, " P"]:
    """Return each position's group: the finest square grid of cells with at most ``limit`` numbers, channels included.

    A token beside the square grid (a class token) is a group of its own. One group at least, however many channels.

    Args:
        feature_shape: Shape of one sample's features.
        limit: Most numbers, channels × groups.

    Example:
        >>> position_groups((8, 4, 4), limit=32).view(4, 4)
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1],
                [2, 2, 3, 3],
                [2, 2, 3, 3]])
    """
    channels, height, columns = map_shape(feature_shape)
    extra = feature_shape[0] - height * columns if len(feature_shape) == 2 else 0
    finest = max(height, columns)
    fitting = [side for side in range(1, finest + 1) if channels * (extra + _cells(height, columns, side)) <= limit]
    side = max(fitting, default=1)
    across, down = min(side, columns), min(side, height)
    rows = torch.arange(height) * down // height
    cells = rows[:, None] * across + torch.arange(columns) * across // columns
    return torch.cat([torch.arange(extra), extra + cells.flatten()])


def _cells(height: int, columns: int, side: int) -> int:
    return min(side, height) * min(side, columns)


def averaging(groups: Int[Tensor, " P"]) -> Float[Tensor, "P G"]:
    """Return the matrix that takes values by position to the means of their groups.

    Example:
        >>> torch.tensor([1.0, 3.0, 5.0]) @ averaging(torch.tensor([0, 0, 1]))
        tensor([2., 5.])
    """
    chosen = torch.nn.functional.one_hot(groups).float()
    return chosen / chosen.sum(0)


def group_count(feature_shape: Sequence[int], limit: int) -> int:
    """Return the number of groups of :func:`position_groups`."""
    return int(position_groups(feature_shape, limit).max()) + 1


def size_of(feature_shape: Sequence[int]) -> tuple[int, int]:
    """Return (channels, positions) of features of this shape.

    Example:
        >>> size_of((65, 192)), size_of((128, 8, 8)), size_of((512,))
        ((192, 65), (128, 64), (512, 1))
    """
    match tuple(feature_shape):
        case (tokens, channels):
            return channels, tokens
        case (channels, *sides):
            return channels, math.prod(sides)
        case _:
            return map_shape(feature_shape)[0], 1


__all__ = ["averaging", "by_position", "from_positions", "group_count", "position_groups", "size_of"]
