"""Tensor shapes: the dimension legend and the aliases used in annotations.

Legend: ``N`` samples in a data set, ``B`` batch, ``C H W`` image, ``D`` feature, ``T`` tokens, ``K`` blocks,
``Y`` target classes, ``A`` attribute classes. The tests check the annotations at run time (jaxtyping + beartype).

Features at a cut are one of three shapes: maps ``[B, D, H, W]``, tokens ``[B, T, D]``, vectors ``[B, D]``.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

Images: TypeAlias = Float[Tensor, "B C H W"]
"""A normalised batch."""
RawImages: TypeAlias = UInt8[Tensor, "B C H W"]
"""A batch as stored: 0 to 255."""
Features: TypeAlias = Float[Tensor, "B *D"]
"""The released representation h: maps, tokens or vectors."""
Labels: TypeAlias = Int[Tensor, " B"]
"""Class indices; -1 is a missing label."""
Logits: TypeAlias = Float[Tensor, "B A"]
"""Unnormalised log-probabilities."""
Scalar: TypeAlias = Float[Tensor, ""]
"""A loss or an estimate, in nats."""
Progress: TypeAlias = float | Float[Tensor, ""]
"""A share of the training, 0 to 1, or a weight that follows from it; a float64 tensor where steps are replayed."""


def warmed(progress: Progress, warmup: float) -> Progress:
    """Return how far something is that sets in over ``warmup``, a share of training: linear from 0 to 1.

    Example:
        >>> warmed(0.05, 0.1), warmed(0.5, 0.1), warmed(0.0, 0.0)
        (0.5, 1.0, 1.0)
    """
    if isinstance(progress, Tensor):
        return (progress / warmup).clamp(max=1) if warmup else torch.ones_like(progress)
    return 1.0 if progress >= warmup else progress / warmup
