"""A small transformer on tokens, or on the places of a map as tokens. Card: docs/attackers/tokens.md."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from efface.audit.attackers.training import NetworkAttacker
from efface.shapes import Features, Logits

MOST = 256
"""Most places of a map; larger maps are averaged over 2×2 cells until they fit."""


class TokenReader(nn.Module):
    """Two pre-norm transformer layers, then each head's weighted mean over the tokens.

    Args:
        channels: D.
        tokens: T.
        classes: Number of attribute classes.
        width: Of the residual stream.
        heads: Of attention, within the layers and at the end.
        layers: Number of transformer layers.
    """

    def __init__(self, channels: int, tokens: int, classes: int, width: int, heads: int = 4, layers: int = 2):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        # Places differ, so that an attribute told by where something is can be read.
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        # Whole channels are dropped, once: on the CPU, masks within the layers took two fifths of a step.
        self.drop = nn.Dropout1d(0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.score = nn.Linear(width, heads)
        self.classify = nn.Sequential(nn.BatchNorm1d(heads * width), nn.Dropout(0.3), nn.Linear(heads * width, classes))

    def forward(self, features: Features) -> Logits:
        """Return logits."""
        tokens: Float[Tensor, "B T E"] = self.embed(as_tokens(features)) + self.place
        tokens = self.drop(tokens.mT).mT
        # PyTorch's fused attention is slower on CPUs, in bf16, than attention that is written out.
        with sdpa_kernel(SDPBackend.MATH) if tokens.device.type == "cpu" else nullcontext():
            for layer in self.layers:
                tokens = layer(tokens)
        shares: Float[Tensor, "B T K"] = self.score(tokens).softmax(1)
        return self.classify(torch.einsum("btk,bte->bke", shares, tokens).flatten(1))


class TokenAttacker(NetworkAttacker):
    """A small transformer with attention pooling, on tokens or on the places of a map."""

    name = "tokens"
    width = 96
    learning_rate = 1e-3
    weight_decay = 0.05

    def applies(self, shape: tuple[int, ...], outputs: int = 0) -> str | None:
        """Say that a vector is one token."""
        if as_tokens(torch.empty(1, *shape, device="meta")).shape[1] < 2:
            return f"`{self.name}` reads several tokens or places; features of shape {shape} are one."
        return None

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh network."""
        _, tokens, channels = as_tokens(torch.empty(1, *shape, device="meta")).shape
        return TokenReader(channels, tokens, classes, self.width)


def as_tokens(features: Features) -> Float[Tensor, "B T D"]:
    """Return features as tokens: places of maps row by row, a vector as one token.

    Example:
        >>> as_tokens(torch.zeros(2, 64, 8, 8)).shape, as_tokens(torch.zeros(2, 64, 56, 56)).shape
        (torch.Size([2, 64, 64]), torch.Size([2, 196, 64]))
    """
    if features.ndim == 2:
        return features[:, None]
    if features.ndim == 3:
        return features
    while features.shape[2] * features.shape[3] > MOST and min(features.shape[2:]) > 1:
        features = F.avg_pool2d(features, 2)
    return features.flatten(2).transpose(1, 2)
