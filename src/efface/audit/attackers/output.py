"""The classifier's own answer as an attacker, through p(z|ŷ). Card: docs/attackers/output.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature, score
from efface.audit.attackers.reduced import class_shares, log_shares
from efface.errors import AuditError
from efface.shapes import Logits

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

UNSEEN = 1.0
"""People that stand for the classes' shares beside those counted for each answer."""


class OutputAttacker(Attacker):
    """Only the model's own answer: p(z|ŷ) by counting, or logistic regression on its logits; validation picks.

    Attributes:
        strengths: Inverse penalties C of the logistic regression.
    """

    name = "output"
    strengths: tuple[float, ...] = (0.01, 1.0)

    def applies(self, shape: tuple[int, ...], outputs: int = 0) -> str | None:
        """Say that there is no answer to read."""
        return None if outputs else f"`{self.name}` reads the model's own logits, and none are given."

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core."""
        return 0.2 + people * classes * 1e-5

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Count, and regress; keep what guesses validation best.

        Raises:
            AuditError: The views hold no logits.
        """
        shares = class_shares(train.labels, train.classes)
        rules: list[Rule] = [Counts.of(train, shares)]
        if len(train.labels.unique()) > 1:  # a part of the people (controls) may hold one class of a rare attribute
            rules += [Regression.of(train, shares, strength, budget.seed) for strength in self.strengths]
        scores = [score(rule(answers(validation)), validation.labels) for rule in rules]
        place = max(range(len(rules)), key=lambda number: scores[number])
        budget.tick()
        temperature = fit_temperature(rules[place](answers(validation)), validation.labels)
        return FittedOutput(scores[place][0], place + 1, None, rules[place], temperature)


@dataclass
class FittedOutput(FittedAttacker):
    """A rule from logits to the attribute; ``epoch`` is its place: counting, then regressions."""

    validation_accuracy: float
    epoch: int
    warning: str | None
    rule: Rule
    temperature: float

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        return self.rule(answers(view)) / self.temperature


class Counts:
    """p(z|ŷ), counted."""

    def __init__(self, table: Float[np.ndarray, "Y A"]):
        self.table = log_shares(table)

    @classmethod
    def of(cls, view: FeatureView, shares: Float[np.ndarray, " A"]) -> Counts:
        """Count how often each attribute goes with each answer."""
        said = answers(view)
        counts = np.zeros((said.shape[1], view.classes))
        np.add.at(counts, (said.argmax(1).numpy(), view.labels.numpy()), 1)
        counts += UNSEEN * shares
        return cls(counts / counts.sum(1, keepdims=True))

    def __call__(self, logits: Float[Tensor, "n Y"]) -> Logits:
        """Return log-probabilities."""
        return self.table[logits.argmax(1)]


@dataclass(frozen=True)
class Regression:
    """Logistic regression on standardised logits and log-probabilities."""

    model: LogisticRegression
    mean: Float[Tensor, " F"]
    std: Float[Tensor, " F"]
    shares: Float[np.ndarray, " A"] = field(repr=False)

    @classmethod
    def of(cls, view: FeatureView, shares: Float[np.ndarray, " A"], strength: float, seed: int) -> Regression:
        """Fit to everybody."""
        from sklearn.linear_model import LogisticRegression

        inputs = described(answers(view))
        mean, std = inputs.mean(0), inputs.std(0, correction=0).clamp_min(1e-6)
        model = LogisticRegression(C=strength, max_iter=200, tol=1e-3, random_state=seed % 2**32)
        model.fit(((inputs - mean) / std).numpy(), view.labels.numpy())
        return cls(model, mean, std, shares)

    def __call__(self, logits: Float[Tensor, "n Y"]) -> Logits:
        """Return log-probabilities."""
        spread = np.tile(1e-3 * self.shares, (len(logits), 1))
        spread[:, self.model.classes_] += self.model.predict_proba(((described(logits) - self.mean) / self.std).numpy())
        return log_shares(spread / spread.sum(1, keepdims=True))


Rule = Counts | Regression


def described(logits: Float[Tensor, "n Y"]) -> Float[Tensor, "n F"]:
    """Return what the regression reads: logits, log-probabilities and probabilities."""
    return torch.cat([logits, logits.log_softmax(1), logits.softmax(1)], 1).double()


def answers(view: FeatureView) -> Float[Tensor, "n Y"]:
    """Return the model's logits.

    Raises:
        AuditError: The view holds none.
    """
    if view.logits is None:
        raise AuditError("Attacker 'output' reads the model's own logits, but the view holds none.")
    return view.logits.float()
