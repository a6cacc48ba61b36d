"""Nearest neighbours in principal components of pooled features. Card: docs/attackers/knn.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature, score
from efface.audit.attackers.reduced import (
    Components,
    Table,
    class_shares,
    log_shares,
    pool,
    rotation_seconds,
    some_people,
    summary_width,
)
from efface.shapes import Labels, Logits

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

PEOPLE = 50_000
"""Most people who can be neighbours, drawn by seed."""
PRIOR = 1.0
"""Neighbours that stand for the classes' shares, so that no probability is 0."""


class NeighbourAttacker(Attacker):
    """Nearest neighbours in principal components; validation picks how many of each.

    Attributes:
        widths: Principal components.
        neighbours: k.
    """

    name = "knn"
    widths: tuple[int, ...] = (8, 32, 128)
    neighbours: tuple[int, ...] = (1, 5, 15, 40, 100, 250)

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core."""
        pooled = summary_width(shape)
        widths = _distinct(self.widths, pooled)
        # Distances to everybody, and the choice of the nearest, at every width.
        return rotation_seconds(people, pooled, max(self.widths)) + min(people, PEOPLE) * people * 0.5 * sum(
            2e-9 + width / 4e10 for width in widths
        )

    def prepare(self, train: FeatureView, others: Sequence[FeatureView]) -> None:
        """Pool everybody, and find the axes."""
        pool([train, *others])
        Components.fit(train, max(self.widths), always=True)

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Try every width and k on validation."""
        from sklearn.neighbors import NearestNeighbors

        # Rotated however few they are: the first of unrotated features would be the first by accident.
        components = Components.fit(train, max(self.widths), always=True)
        people = some_people(train, PEOPLE, budget.seed)
        known, asked = components.of(train, people), components.of(validation)
        labels, shares = train.labels[people], class_shares(train.labels, train.classes)
        found: list[tuple[tuple[float, float], FittedNeighbours]] = []
        for place, width in enumerate(_distinct(self.widths, known.shape[1]), 1):
            search = NearestNeighbors(algorithm="brute").fit(known[:, :width])
            most = min(max(self.neighbours), len(known))
            near = labels.numpy()[search.kneighbors(asked[:, :width], most, return_distance=False)]
            for k in sorted({min(k, most) for k in self.neighbours}):
                logits = vote(near[:, :k], shares)
                rank = score(logits, validation.labels)
                found.append((rank, FittedNeighbours(rank[0], k, None, components, search, labels, shares, width)))
            if place <= budget.epochs:
                budget.tick()
        best = max(found, key=lambda one: one[0])[1]
        best.temperature = fit_temperature(best.predict_logits(validation), validation.labels)
        return best


@dataclass
class FittedNeighbours(FittedAttacker):
    """Labelled people to compare with; ``epoch`` is k."""

    validation_accuracy: float
    epoch: int
    warning: str | None
    components: Components
    search: NearestNeighbors
    labels: Labels
    shares: Float[np.ndarray, " A"]
    width: int
    temperature: float = 1.0

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        table: Table = self.components.of(view)[:, : self.width]
        near = self.search.kneighbors(table, self.epoch, return_distance=False)
        return vote(self.labels.numpy()[near], self.shares) / self.temperature


def vote(near: Int[np.ndarray, "n k"], shares: Float[np.ndarray, " A"]) -> Logits:
    """Return log-probabilities from the neighbours' classes, nearest first.

    Example:
        >>> vote(np.array([[0, 0, 1]]), np.array([0.5, 0.5])).exp()
        tensor([[0.6250, 0.3750]])
    """
    people, k = near.shape
    cells = np.arange(people)[:, None] * len(shares) + near
    counts = np.bincount(cells.ravel(), minlength=people * len(shares)).reshape(people, len(shares))
    return log_shares((counts + PRIOR * shares) / (k + PRIOR))


def _distinct(widths: tuple[int, ...], most: int) -> list[int]:
    return sorted({min(width, most) for width in widths})
