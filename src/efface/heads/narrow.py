"""A narrow, rounded passage at the cut: few channels, each rounded to a grid.

What hides in directions of little variance can't be unlearned, for nobody sees it until an attacker whitens the
features in full precision. Here it can't pass: few channels leave no room for such directions, and rounding drowns
what is left of them. Unlike added noise, a second release of the same image tells nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from efface.heads.positions import by_position, from_positions, size_of
from efface.heads.release import Release
from efface.shapes import Features


class NarrowPassage(Release):
    """Maps the channels at every position to fewer, rounds these to a grid, and maps them back.

    Args:
        shape: Shape of one sample's features.
        channels: That pass; at most those of the features.
        step: Of the grid, in standard deviations of a channel that passes; 0: none are rounded.
        noise: Normal noise that is added in training, in the same unit. What is released has none, so that a second
            release of an image tells nothing new; a layer that is built from its state needs none.

    Example:
        >>> passage = NarrowPassage(shape=(8, 4, 4), channels=2, step=0.5).eval()
        >>> passage(torch.randn(5, 8, 4, 4)).shape
        torch.Size([5, 8, 4, 4])
        >>> code = passage.code(torch.randn(5, 8, 4, 4))
        >>> code.shape, bool((code / 0.5 == (code / 0.5).round()).all())
        (torch.Size([5, 2, 16]), True)
    """

    kind: ClassVar[str] = "narrow"

    def __init__(self, shape: Sequence[int], channels: int, step: float, noise: float = 0.0):
        super().__init__(shape=list(shape), channels=channels, step=step)
        self.shape, self.step, self.noise = tuple(shape), step, noise
        width = size_of(shape)[0]
        self.reduce = nn.Linear(width, channels, bias=False)
        self.standardise = nn.BatchNorm1d(channels, affine=False)
        self.expand = nn.Linear(channels, width)

    @torch.no_grad()
    def fill(self, mean: Float[Tensor, " C"], covariance: Float[Tensor, "C C"]) -> None:
        """Let the principal components of the channels pass, so that the features change as little as they can."""
        values, vectors = torch.linalg.eigh(covariance.double())
        kept = vectors[:, -len(self.reduce.weight) :].flip(1)
        spread = values[-len(self.reduce.weight) :].flip(0).clamp_min(1e-8)
        mean = mean.double()
        self.reduce.weight.copy_(kept.T)
        self.standardise.running_mean.copy_(kept.T @ mean)  # type: ignore[union-attr]
        self.standardise.running_var.copy_(spread)  # type: ignore[union-attr]
        self.expand.weight.copy_(kept * (spread + self.standardise.eps).sqrt())
        self.expand.bias.copy_(mean)

    def code(self, features: Features) -> Float[Tensor, "B K P"]:
        """Return what passes, channel by channel and position by position; rounding lets gradients through."""
        values = by_position(features).float()
        code = self.standardise(self.reduce.weight @ values)
        if self.training and self.noise:
            code = code + self.noise * torch.randn_like(code)
        if not self.step:
            return code
        # In evaluation exactly the grid: code + (rounded − code) would carry rounding errors that tell more.
        rounded = (code / self.step).round() * self.step
        return code + (rounded - code).detach() if self.training else rounded

    def forward(self, features: Features) -> Features:
        """Return features that are a function of the code, in their own type."""
        with torch.autocast(features.device.type, enabled=False):
            released = self.expand.weight @ self.code(features) + self.expand.bias[:, None]
            return from_positions(released, self.shape).to(features.dtype)


__all__ = ["NarrowPassage"]
