"""Affine layers at the cut: directions taken out of the features, and a fixed projection of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from efface.heads.positions import averaging, by_position, from_positions, position_groups, size_of
from efface.heads.release import Release
from efface.shapes import Features


class AffineEraser(Release):
    """Takes ``rank`` directions out of what it reads: s' = s − L·R·(s − b), with s the means of groups of positions.

    The change of a group's mean is added to each of its positions, so that what is within a group stays. Where every
    position is a group of its own, s is the whole of the features, flattened.

    Args:
        shape: Shape of one sample's features.
        limit: Most numbers in s; see ``position_groups``.
        rank: Directions.

    Example:
        >>> eraser = AffineEraser(shape=(2,), limit=2, rank=1)
        >>> eraser.fill(left=torch.tensor([[1.0], [0.0]]), right=torch.tensor([[1.0, 0.0]]), bias=torch.zeros(2))
        >>> eraser(torch.tensor([[3.0, 4.0]]))
        tensor([[0., 4.]])
    """

    kind: ClassVar[str] = "eraser"

    def __init__(self, shape: Sequence[int], limit: int, rank: int):
        super().__init__(shape=list(shape), limit=limit, rank=rank)
        self.shape = tuple(shape)
        groups = position_groups(shape, limit)
        self.size = size_of(shape)[0] * (int(groups.max()) + 1)
        self.register_buffer("groups", groups)
        self.register_buffer("average", averaging(groups))
        for name, value in (
            ("left", torch.zeros(self.size, rank)),
            ("right", torch.zeros(rank, self.size)),
            ("bias", torch.zeros(self.size)),
        ):
            self.register_buffer(name, value)

    def fill(self, left: Float[Tensor, "S R"], right: Float[Tensor, "R S"], bias: Float[Tensor, " S"]) -> None:
        """Set L, R and b."""
        for name, value in (("left", left), ("right", right), ("bias", bias)):
            buffer = self.get_buffer(name)
            assert buffer.shape == value.shape, (name, buffer.shape, value.shape)
            buffer.copy_(value)

    def read(self, features: Features) -> Float[Tensor, "B S"]:
        """Return s: the means of the groups, channel by channel, flattened."""
        values = by_position(features)
        means = values.to(self.get_buffer("average").dtype) @ self.get_buffer("average")
        return means.flatten(1)

    def forward(self, features: Features) -> Features:
        """Return features without these directions, in the features' own type."""
        with torch.autocast(features.device.type, enabled=False):
            buffer = self.get_buffer
            values = by_position(features).to(buffer("left").dtype)
            means = (values @ buffer("average")).flatten(1)
            change = (means - buffer("bias")) @ buffer("right").T @ buffer("left").T
            spread = change.view(len(values), values.shape[1], -1)[:, :, buffer("groups")]
            return from_positions(values - spread, self.shape).to(features.dtype)


class ChannelProjection(Release):
    """Multiplies the channels at every position by one fixed matrix.

    Args:
        shape: Shape of one sample's features.
    """

    kind: ClassVar[str] = "projection"

    def __init__(self, shape: Sequence[int]):
        super().__init__(shape=list(shape))
        self.shape = tuple(shape)
        self.register_buffer("matrix", torch.eye(size_of(shape)[0]))

    def forward(self, features: Features) -> Features:
        """Return the projected features, in their own type."""
        with torch.autocast(features.device.type, enabled=False):
            matrix = self.get_buffer("matrix")
            values = matrix @ by_position(features).to(matrix.dtype)
            return from_positions(values, self.shape).to(features.dtype)


__all__ = ["AffineEraser", "ChannelProjection"]
