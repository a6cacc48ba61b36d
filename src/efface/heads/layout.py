"""One view of features for every head: whatever the cut releases, heads see a map.

Maps ``[B, D, H, W]`` pass as they are, tokens ``[B, T, D]`` are laid on their square grid (extra prefix tokens are
averaged into it), vectors ``[B, D]`` become a map of one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.errors import ShapeError, expected
from efface.shapes import Features


def map_shape(feature_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (D, H, W) of the map that ``as_map`` makes of features of this shape (without the batch).

    Raises:
        ShapeError: Features are neither maps, tokens nor vectors.

    Example:
        >>> map_shape((65, 192)), map_shape((512,))
        ((192, 8, 8), (512, 1, 1))
    """
    match tuple(feature_shape):
        case (d, h, w):
            return d, h, w
        case (t, d):
            side = math.isqrt(t)
            return d, side, side
        case (d,):
            return d, 1, 1
        case other:
            raise ShapeError(expected("features", "maps [D, H, W], tokens [T, D] or vectors [D]", other))


def as_map(features: Features) -> Float[Tensor, "B D H W"]:
    """Lay features out as maps; the gradient passes through.

    Example:
        >>> as_map(torch.zeros(2, 65, 192)).shape
        torch.Size([2, 192, 8, 8])
    """
    if features.ndim == 4:
        return features
    if features.ndim == 2:
        return features[:, :, None, None]
    batch, tokens, width = features.shape
    side = math.isqrt(tokens)
    extra = tokens - side * side
    grid = features[:, extra:].transpose(1, 2).reshape(batch, width, side, side)
    if extra:
        # The class token may hold what no patch does: heads must see it too.
        grid = grid + features[:, :extra].mean(1)[:, :, None, None]
    return grid


def pooled(maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B F"]:
    """Return mean, maximum and spread of each channel over the positions, concatenated.

    Example:
        >>> pooled(torch.zeros(2, 5, 4, 4)).shape
        torch.Size([2, 15])
    """
    flat = maps.flatten(2).float()
    mean = flat.mean(2)
    spread = (flat.square().mean(2) - mean.square()).clamp_min(0).add(1e-6).sqrt()
    return torch.cat([mean, flat.amax(2), spread], 1)
