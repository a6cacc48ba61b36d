"""Gradient-boosted trees on principal components of pooled features. Card: docs/attackers/trees.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature, score
from efface.audit.attackers.reduced import (
    Components,
    class_shares,
    log_shares,
    pool,
    rotation_seconds,
    some_people,
    summary_width,
)
from efface.shapes import Labels, Logits

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

PEOPLE = 20_000
"""Most people learned from, drawn by seed."""
WIDTH = 64
"""Most numbers that the trees read; wider features are rotated to their principal components."""
TREES = 600
"""Most trees in all; a round grows one per class (one in all if there are two classes)."""
ROUNDS = 15
"""Most rounds per epoch of the budget."""


class TreeAttacker(Attacker):
    """Gradient-boosted trees on principal components; validation says when to stop.

    Attributes:
        learning_rate: Of each round.
        leaves: Most leaves of a tree.
        patience: Rounds without a better cross-entropy on validation before growth ends.
    """

    name = "trees"
    learning_rate: float = 0.1
    leaves: int = 15
    patience: int = 10

    def rounds(self, classes: int, epochs: int) -> int:
        """Return the most rounds.

        Example:
            >>> TreeAttacker().rounds(2, 12), TreeAttacker().rounds(10, 12)
            (180, 60)
        """
        return max(1, min(ROUNDS * epochs, TREES // (classes if classes > 2 else 1)))

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core."""
        pooled = summary_width(shape)
        trees = self.rounds(classes, epochs) * (classes if classes > 2 else 1)
        return rotation_seconds(people, pooled, WIDTH) + trees * (
            4e-3 + min(people, PEOPLE) * min(pooled, WIDTH) * 2.5e-8
        )

    def prepare(self, train: FeatureView, others: Sequence[FeatureView]) -> None:
        """Pool everybody, and find the axes."""
        pool([train, *others])
        Components.fit(train, WIDTH)

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Grow trees until validation gets no better; keep those up to its best."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        components = Components.fit(train, WIDTH)
        people = some_people(train, PEOPLE, budget.seed)
        labels = train.labels[people]
        present, codes = np.unique(labels.numpy(), return_inverse=True)
        # Boosting knows the classes of its training people only; others can't say when to stop.
        judges = torch.from_numpy(np.isin(validation.labels.numpy(), present))
        asked = components.of(validation)
        trees = HistGradientBoostingClassifier(
            learning_rate=self.learning_rate,
            max_iter=self.rounds(train.classes, budget.epochs),
            max_leaf_nodes=self.leaves,
            early_stopping=bool(judges.any()),
            n_iter_no_change=self.patience,
            random_state=budget.seed % 2**32,
        )
        held_out = {}
        if judges.any():
            held_out = {
                "X_val": asked[judges.numpy()],
                "y_val": np.searchsorted(present, validation.labels[judges].numpy()),
            }
        trees.fit(components.of(train, people), codes, **held_out)
        fitted = FittedTrees(0.0, 1, None, components, trees, present, class_shares(train.labels, train.classes))
        fitted.pick(asked, validation.labels)
        budget.tick()
        return fitted


@dataclass
class FittedTrees(FittedAttacker):
    """Trees; ``epoch`` is the number of rounds that are used."""

    validation_accuracy: float
    epoch: int
    warning: str | None
    components: Components
    trees: HistGradientBoostingClassifier
    present: np.ndarray
    shares: np.ndarray
    temperature: float = 1.0

    def pick(self, asked: np.ndarray, labels: Labels) -> None:
        """Keep the rounds with the least cross-entropy on validation, for accuracy is too rough to judge rounds."""
        scores = [score(self._spread(shares), labels) for shares in self.trees.staged_predict_proba(asked)]
        self.epoch = 1 + max(range(len(scores)), key=lambda place: scores[place][1])
        self.validation_accuracy = scores[self.epoch - 1][0]
        self.temperature = fit_temperature(self._logits(asked), labels)

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        return self._logits(self.components.of(view)) / self.temperature

    def _logits(self, table: np.ndarray) -> Logits:
        stages = self.trees.staged_predict_proba(table)
        return self._spread(next(islice(stages, self.epoch - 1, None)))

    def _spread(self, shares: np.ndarray) -> Logits:
        """Give classes that nobody in training had the little that is due to them."""
        spread = np.tile(1e-3 * self.shares, (len(shares), 1))
        # Boosting that saw one class answers with two columns.
        spread[:, self.present] += shares if len(self.present) > 1 else 1.0
        return log_shares(spread / spread.sum(1, keepdims=True))
