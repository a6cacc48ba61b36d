"""Gradient reversal: the identity, whose gradient is turned around.

Source: Ganin and Lempitsky (2015), *Unsupervised domain adaptation by backpropagation*, equation 12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface.shapes import Features, Progress


class GradientReversal(torch.autograd.Function):
    """Identity forward; the gradient times −strength backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: Progress) -> Tensor:
        """Return the features as they are."""
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return −strength times the gradient."""
        return -ctx.strength * gradients[0], None


def reverse_gradient(features: Features, strength: Progress) -> Features:
    """Return the features; their gradient is −strength times the one that comes back.

    Whoever reads them learns as usual, and what made them learns the opposite.

    Example:
        >>> h = torch.ones(2, 3, requires_grad=True)
        >>> reverse_gradient(h, 0.5).sum().backward()
        >>> h.grad[0]
        tensor([-0.5000, -0.5000, -0.5000])
    """
    reversed_features: Tensor = GradientReversal.apply(features, strength)
    return reversed_features
