"""Heads that read labels from features: the target head and the removal heads of the auxiliary network.

Source: section 3.2.3 of the paper, I(h;y) and I(h;z) by auxiliary classifiers. A conditional head is told y and gives
q(z | h, y) (THEORY, repair 2): it has one row of logits per target class and the given class picks its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import ConfigError, did_you_mean
from efface.heads.layout import as_map, map_shape, pooled
from efface.shapes import Features, Labels, Logits


class Head(nn.Module):
    """A trunk, a linear classifier on it, and a projection for contrastive training.

    Args:
        trunk: Module from features to vectors ``[B, width]``.
        width: Length of these vectors.
        classes: Number of classes that are predicted.
        given: Number of classes of the given label; 1 if nothing is given.
    """

    def __init__(self, trunk: nn.Module, width: int, classes: int, given: int = 1):
        super().__init__()
        self.trunk = trunk
        self.classes, self.given = classes, given
        self.classify = nn.Linear(width, classes * given)
        self.project = nn.Linear(width, 64)

    def forward(self, features: Features, condition: Labels | None = None) -> tuple[Logits, Float[Tensor, "B P"]]:
        """Return logits (of the row that ``condition`` picks) and the normalised projection."""
        hidden = self.trunk(features)
        logits = self.classify(hidden).float()
        if self.given > 1:
            assert condition is not None
            rows = logits.view(-1, self.given, self.classes)
            logits = rows[torch.arange(len(rows), device=rows.device), condition.clamp_min(0)]
        return logits, F.normalize(self.project(hidden).float(), dim=1)


class ConvolutionTrunk(nn.Module):
    """Two convolutions and a pooled layer; input is standardised, so that a change of scale can't blind the head."""

    def __init__(self, feature_shape: Sequence[int], width: int):
        super().__init__()
        channels, height, _ = map_shape(feature_shape)
        stride = 2 if height >= 8 else 1
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels, affine=False),
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.mix = nn.Sequential(nn.Linear(3 * width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True))

    def forward(self, features: Features) -> Float[Tensor, "B W"]:
        """Return one vector per sample."""
        return self.mix(pooled(self.layers(as_map(features))))


class PooledTrunk(nn.Module):
    """A perceptron with two hidden layers on each channel's mean, maximum and spread."""

    def __init__(self, feature_shape: Sequence[int], width: int):
        super().__init__()
        inputs = 3 * map_shape(feature_shape)[0]
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs, affine=False),
            nn.Linear(inputs, 2 * width),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(inplace=True),
            nn.Linear(2 * width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Features) -> Float[Tensor, "B W"]:
        """Return one vector per sample."""
        return self.layers(pooled(as_map(features)))


class GridTrunk(nn.Module):
    """A perceptron on the map averaged to 4×4 cells: it sees where, at little cost."""

    def __init__(self, feature_shape: Sequence[int], width: int):
        super().__init__()
        channels, height, columns = map_shape(feature_shape)
        self.cells = (min(4, height), min(4, columns))
        self.squeeze = nn.Sequential(nn.BatchNorm2d(channels, affine=False), nn.Conv2d(channels, max(width // 2, 8), 1))
        self.layers = nn.Sequential(
            nn.Linear(max(width // 2, 8) * self.cells[0] * self.cells[1], width),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Features) -> Float[Tensor, "B W"]:
        """Return one vector per sample."""
        cells = F.adaptive_avg_pool2d(self.squeeze(as_map(features)), self.cells)
        return self.layers(cells.flatten(1))


TRUNKS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {
    "conv": ConvolutionTrunk,
    "pooled": PooledTrunk,
    "grid": GridTrunk,
}


def build_head(kind: str, feature_shape: Sequence[int], classes: int, width: int = 128, given: int = 1) -> Head:
    """Return a fresh head of a kind in ``TRUNKS``.

    Raises:
        ConfigError: The kind is unknown.

    Example:
        >>> head = build_head("conv", (128, 8, 8), classes=5, given=2)
        >>> logits, _ = head(torch.randn(4, 128, 8, 8), torch.tensor([0, 1, 1, 0]))
        >>> logits.shape
        torch.Size([4, 5])
    """
    if kind not in TRUNKS:
        raise ConfigError(f"Unknown kind of head {kind!r} in `method.heads`. {did_you_mean(kind, [*TRUNKS, 'ridge'])}")
    return Head(TRUNKS[kind](feature_shape, width), width, classes, given)
