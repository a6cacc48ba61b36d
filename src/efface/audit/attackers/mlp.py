"""Perceptrons of several widths on pooled features. Card: docs/attackers/mlp.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.audit.attackers.base import FeatureView
from efface.audit.attackers.reduced import pool, summary_width
from efface.audit.attackers.training import NetworkAttacker
from efface.audit.store import summarise
from efface.shapes import Features, Logits


class Perceptron(nn.Module):
    """Two hidden layers with batch normalisation and dropout.

    Args:
        inputs: F.
        classes: Number of attribute classes.
        width: Of each hidden layer.
        dropout: Share of hidden units left out.
        normalise: Whether the input is normalised, so that numbers of small spread count as much as others.
    """

    def __init__(self, inputs: int, classes: int, width: int, dropout: float, normalise: bool = True):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs, affine=False) if normalise else nn.Identity(),
            *self._hidden(inputs, width, dropout),
            *self._hidden(width, width, dropout),
            nn.Linear(width, classes),
        )

    @staticmethod
    def _hidden(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
        return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.GELU(), nn.Dropout(dropout)]

    def forward(self, features: Float[Tensor, "B F"]) -> Logits:
        """Return logits."""
        return self.layers(features)


class PooledAttacker(NetworkAttacker):
    """A perceptron on mean, spread, maximum and a coarse grid of each channel.

    Attributes:
        width: Of each hidden layer.
        dropout: Share of hidden units left out in training.
    """

    name = "mlp"
    width = 512
    dropout = 0.3
    learning_rate = 1e-3
    weight_decay = 0.05

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh perceptron."""
        return Perceptron(summary_width(shape), classes, self.width, self.dropout, self.scaling == "standardised")

    def prepare(self, train: FeatureView, others: Sequence[FeatureView]) -> None:
        """Pool everybody."""
        if self.scaling == "standardised":
            pool([train, *others])

    def inputs(self, view: FeatureView, people: Int[Tensor, " B"]) -> Features:
        """Return pooled features."""
        return summarise(view.raw(people)) if self.scaling == "raw" else view.pooled(people)

    def blank(self, shape: tuple[int, ...]) -> Features:
        """Return empty inputs of two people."""
        return torch.empty(2, summary_width(shape))


class SmallPooledAttacker(PooledAttacker):
    """`mlp` with hidden layers of 64, for few people and weak signals."""

    name = "mlp-small"
    width = 64
    dropout = 0.1
    learning_rate = 2e-3


class WidePooledAttacker(PooledAttacker):
    """`mlp` with hidden layers of 1536."""

    name = "mlp-wide"
    width = 1536
    dropout = 0.5


class RawPooledAttacker(PooledAttacker):
    """`mlp` on features as released, without scaling of the channels."""

    name = "mlp-raw"
    scaling = "raw"
