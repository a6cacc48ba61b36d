"""What every attacker is: fitted on labelled features, picked on validation, then it guesses people it never saw."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.store import Standard, StoredFeatures
from efface.shapes import Features, Labels, Logits


@dataclass(frozen=True)
class FeatureView:
    """All that an attacker sees of a split: features of the people whose attribute is known, and the attribute.

    Attributes:
        source: Features of the whole split.
        rows: Row in ``source`` of each person.
        labels: The attribute, 0 to ``classes`` − 1.
        classes: Number of classes A.
        logits: ``[n, Y]`` the model's own answer for each person, where the attacker sees it; else None.
    """

    source: StoredFeatures
    rows: Int[np.ndarray, " n"]
    labels: Labels
    classes: int
    logits: Float[Tensor, "n Y"] | None = None

    @classmethod
    def of(
        cls,
        source: StoredFeatures,
        labels: Int[np.ndarray, " n"],
        classes: int,
        logits: Float[Tensor, "N Y"] | None = None,
    ) -> FeatureView:
        """Leave out the people without a label (-1); ``logits`` are those of the whole split."""
        rows = np.flatnonzero(labels >= 0)
        answers = None if logits is None else logits[torch.from_numpy(rows)]
        return cls(source, rows, torch.from_numpy(labels[rows].astype(np.int64)), classes, answers)

    def some(self, people: Int[Tensor, " B"]) -> FeatureView:
        """Return the view of some of these people."""
        logits = None if self.logits is None else self.logits[people]
        return FeatureView(self.source, self.rows[people.numpy()], self.labels[people], self.classes, logits)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's features."""
        return self.source.shape

    def standardised(self, people: Int[Tensor, " B"]) -> Features:
        """Return features with mean 0 and spread 1 per channel."""
        return self.source.standardised(self.rows[people.numpy()])

    def raw(self, people: Int[Tensor, " B"]) -> Features:
        """Return features in the model's own units but for one common shift and scale, so that training starts well.

        The channels' proportions are as released: a channel of small spread stays small. Mean 0 and spread 1 over all
        channels of the training people.
        """
        shift, scale = common_scale(self.source.standard)
        return (self.source.read(self.rows[people.numpy()]) - shift) / scale

    def pooled(self, people: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """Return pooled features (``store.summarise``)."""
        return self.source.pooled[self.rows[people.numpy()]].float()


def common_scale(standard: Standard) -> tuple[float, float]:
    """Return the mean and the spread of all numbers of the training people, from those of each channel.

    Example:
        >>> common_scale(Standard(torch.zeros(2), torch.tensor([0.0, 6.0]), torch.tensor([4.0, 4.0])))
        (3.0, 5.0)
    """
    means = (standard.mean + standard.offset).double()
    variance = standard.std.double().square().mean() + means.var(correction=0)
    return float(means.mean()), float(variance.sqrt())


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

    def applies(self, shape: tuple[int, ...], outputs: int = 0) -> str | None:
        """Return why this attacker has nothing to read here, as a remark for the report; None if it has.

        Args:
            shape: Of one person's features.
            outputs: Number of the model's own logits that the attacker sees; 0: none.
        """
        return None

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core, reading its validation and test people included.

        Args:
            people: Training people.
            shape: Of one person's features.
            classes: Number of classes A.
            epochs: Most epochs.
        """
        return math.nan

    def prepare(self, train: FeatureView, others: Sequence[FeatureView]) -> None:
        """Leave with the features what ``fit`` and reading share with other attackers; called before these are forked.

        Args:
            train: The people that will be learned from.
            others: Those that will be read.
        """
        return

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


def score(logits: Logits, labels: Labels) -> tuple[float, float]:
    """Return accuracy, then cross-entropy with its sign turned: validation picks the largest.

    Example:
        >>> score(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1]))[0]
        1.0
    """
    return float((logits.argmax(1) == labels).double().mean()), -float(F.cross_entropy(logits, labels))
