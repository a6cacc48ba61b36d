"""What every attacker is: fitted on labelled features, picked on validation, then it guesses people it never saw."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.store import StoredFeatures
from efface.shapes import Features, Labels, Logits


@dataclass(frozen=True)
class FeatureView:
    """All that an attacker sees of a split: features of the people whose attribute is known, and the attribute.

    Attributes:
        source: Features of the whole split.
        rows: Row in ``source`` of each person.
        labels: The attribute, 0 to ``classes`` − 1.
        classes: Number of classes A.
    """

    source: StoredFeatures
    rows: Int[np.ndarray, " n"]
    labels: Labels
    classes: int

    @classmethod
    def of(cls, source: StoredFeatures, labels: Int[np.ndarray, " n"], classes: int) -> FeatureView:
        """Leave out the people without a label (-1)."""
        rows = np.flatnonzero(labels >= 0)
        return cls(source, rows, torch.from_numpy(labels[rows].astype(np.int64)), classes)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's features."""
        return self.source.shape

    def standardised(self, people: Int[Tensor, " B"]) -> Features:
        """Return features with mean 0 and spread 1 per channel."""
        return self.source.standardised(self.rows[people.numpy()])

    def pooled(self, people: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """Return pooled features (``store.summarise``)."""
        return self.source.pooled[self.rows[people.numpy()]].float()


@dataclass(frozen=True)
class Budget:
    """What an attacker may spend.

    Attributes:
        epochs: Most epochs; validation picks the best.
        batch_size: Most people per step; small data sets are cut into more steps.
        seed: Of initial weights, order and augmentation.
        device: Where to train.
        tick: Called after every epoch.
    """

    epochs: int = 12
    batch_size: int = 256
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tick: Callable[[], None] = lambda: None


class FittedAttacker(ABC):
    """An attacker that has learned; frozen from here on.

    Attributes:
        validation_accuracy: What it was picked by, a fraction.
        epoch: The epoch that was picked, from 1; 0 if there are none.
        warning: What went wrong in training, or None.
    """

    validation_accuracy: float
    epoch: int
    warning: str | None

    @abstractmethod
    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU; labels in the view are not read."""


class Attacker(ABC):
    """Learns q(z | h) from pairs; every ``fit`` starts from fresh weights.

    Attributes:
        name: In settings and reports.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Learn from ``train``; ``validation`` alone picks epochs and settings."""


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature with the least cross-entropy, from a grid of ratio 1.05 between 0.05 and 20.

    Source: Guo et al. (2017).
    """
    grid = torch.exp(torch.arange(math.log(0.05), math.log(20), math.log(1.05)))
    losses = torch.stack([F.cross_entropy(logits / t, labels) for t in grid])
    return float(grid[losses.argmin()])
