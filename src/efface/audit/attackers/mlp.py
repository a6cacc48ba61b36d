"""A perceptron on pooled features. Card: docs/attackers/mlp.md."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.audit.attackers.base import FeatureView
from efface.audit.attackers.training import NetworkAttacker
from efface.audit.store import summarise
from efface.shapes import Features, Logits


class Perceptron(nn.Module):
    """Two hidden layers with batch normalisation and dropout."""

    def __init__(self, inputs: int, classes: int, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs, affine=False),
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
    """A perceptron on mean, spread, maximum and a coarse grid of each channel."""

    name = "mlp"
    width = 512
    dropout = 0.3
    learning_rate = 2e-3
    weight_decay = 0.05
    mixup = 0.2

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh perceptron."""
        inputs = summarise(torch.zeros(1, *shape)).shape[1]
        return Perceptron(inputs, classes, self.width, self.dropout)

    def inputs(self, view: FeatureView, people: Int[Tensor, " B"]) -> Features:
        """Return pooled features."""
        return view.pooled(people)
