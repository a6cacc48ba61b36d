"""A random projection of the channels: a control, for whoever thinks that fewer dimensions tell less."""

from __future__ import annotations

from typing import ClassVar

import torch

from efface.heads.eraser import ChannelProjection
from efface.heads.positions import size_of
from efface.methods.posthoc import PostHocMethod, Stream


class RandomProjection(PostHocMethod):
    """Keeps a random subspace of the channels, the same at every position; nothing is learned from labels."""

    name: ClassVar[str] = "random_projection"
    summary: ClassVar[str] = "random subspace of the channels: a control, no label is read"

    def learn(self, stream: Stream, shape: tuple[int, ...]) -> ChannelProjection:
        """Draw the subspace by seed."""
        channels = size_of(shape)[0]
        kept = max(1, round(stream.config.eraser.keep * channels))
        generator = torch.Generator().manual_seed(stream.seed)
        basis, _ = torch.linalg.qr(torch.randn(channels, kept, generator=generator))
        layer = ChannelProjection(shape)
        layer.get_buffer("matrix").copy_(basis @ basis.T)
        return layer
