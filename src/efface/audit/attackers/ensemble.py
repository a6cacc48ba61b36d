"""All attackers together: a weighted mean of their probabilities. Card: docs/attackers/ensemble.md.

It is made of what the others say, so nothing is trained twice: `combine` picks weights from the members' validation
logits, and the `Combination` mixes what they say of anybody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature, score
from efface.errors import AuditError, expected
from efface.shapes import Labels, Logits

FOLDS = 5
"""Parts of validation: weights picked on four are judged on the fifth."""
ROUNDS = 20
"""Members drawn by greedy selection, with repetition: weights are multiples of 1/20 in each fold."""
FLOOR = 1e-9


@dataclass(frozen=True)
class Combination:
    """Weights of the members.

    Attributes:
        weights: By member, summing to 1; members without weight are left out.
        temperature: Fitted on validation.
        validation_accuracy: Cross-validated: nobody's guess counts in picking the weights it is judged with.
        note: Why one member stands alone, or None.
    """

    weights: Mapping[str, float]
    temperature: float
    validation_accuracy: float
    note: str | None = None

    def logits(self, said: Mapping[str, Logits]) -> Logits:
        """Return calibrated logits from what each member says of the same people."""
        return mixed(said, self.weights) / self.temperature


def combine(said: Mapping[str, Logits], labels: Labels, seed: int = 0) -> Combination:
    """Pick weights by greedy selection on folds of validation.

    In each fold members are added one by one, with repetition, whichever brings the cross-entropy of the mean
    probability down most; the folds' weights are averaged. If the mixture is worse than its best member by more than
    a standard error on the people it did not see, that member stands alone.

    Source: Caruana et al. (2004), ensemble selection from libraries of models.

    Args:
        said: Calibrated logits of each member on the validation people.
        labels: ``[v]`` their attribute.
        seed: Of the folds.

    Raises:
        AuditError: No member is given.

    Example:
        >>> labels = torch.tensor([0, 1] * 50)
        >>> sure, blind = 4.0 * torch.eye(2)[labels], torch.zeros(100, 2)
        >>> dict(combine({"sure": sure, "blind": blind}, labels).weights)
        {'sure': 1.0}
    """
    if not said:
        raise AuditError(expected("said", "what at least one attacker says", dict(said)))
    names = list(said)
    shares = torch.stack([said[name].double().softmax(1) for name in names])
    held_out, totals = torch.empty_like(shares[0]), torch.zeros(len(names), dtype=torch.float64)
    folds = _folds(len(labels), seed)
    for fold in folds:
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[fold] = False
        weights = greedy(shares[:, rest] if rest.any() else shares, labels[rest] if rest.any() else labels)
        held_out[fold] = torch.einsum("m,mna->na", weights, shares[:, fold])
        totals += weights / len(folds)
    kept = {name: float(weight) for name, weight in zip(names, totals, strict=True) if weight > 0}
    right = held_out.argmax(1) == labels
    single, alone = _stands_alone(said, labels, right)
    if alone:
        note = f"the mixture was worse on validation than {single} by more than noise: {single} stands alone"
        return Combination({single: 1.0}, 1.0, score(said[single], labels)[0], note)
    temperature = fit_temperature(mixed(said, kept), labels)
    return Combination(kept, temperature, float(right.double().mean()))


def greedy(shares: Float[Tensor, "M n A"], labels: Labels) -> Float[Tensor, " M"]:
    """Return weights from greedy selection: each round adds the member that helps the mean probability most.

    Args:
        shares: ``[M, n, A]`` each member's probabilities.
        labels: ``[n]``.
    """
    own: Float[Tensor, "M n"] = shares.gather(2, labels.expand(len(shares), -1)[..., None])[..., 0]
    counts, total = torch.zeros(len(own), dtype=torch.float64), torch.zeros_like(own[0])
    for drawn in range(1, ROUNDS + 1):
        losses = -((total + own) / drawn).clamp_min(FLOOR).log().mean(1)
        member = int(losses.argmin())
        counts[member] += 1
        total = total + own[member]
    return counts / ROUNDS


def mixed(said: Mapping[str, Logits], weights: Mapping[str, float]) -> Logits:
    """Return the logarithm of the weighted mean of the members' probabilities."""
    total = sum((weight * said[name].double().softmax(1) for name, weight in weights.items()), torch.tensor(0.0))
    return total.clamp_min(FLOOR).log().float()


def _folds(people: int, seed: int) -> Sequence[Int[Tensor, " f"]]:
    order = torch.randperm(people, generator=torch.Generator().manual_seed(seed))
    return [fold for fold in order.chunk(min(FOLDS, people)) if len(fold)]


def _stands_alone(said: Mapping[str, Logits], labels: Labels, right: Bool[Tensor, " n"]) -> tuple[str, bool]:
    """Return the member with the best validation accuracy, and whether it beats the mixture by more than noise."""
    best = max(said, key=lambda name: score(said[name], labels))
    gain = (said[best].argmax(1) == labels).double() - right.double()
    return best, float(gain.mean()) > float(gain.std(correction=0)) / math.sqrt(len(labels))


class EnsembleAttacker(Attacker):
    """The other attackers together: a mean of their probabilities, weighted by greedy selection on validation.

    In an audit the members are those of the suite, already fitted (`of`). On its own (`fit`) it trains its members.

    Attributes:
        members: Names of the attackers that `fit` trains.
    """

    name = "ensemble"
    members: tuple[str, ...] = ("linear", "mlp", "knn", "trees")

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long the choice of weights takes; its members are counted on their own."""
        return 0.3 + people * classes * 2e-6

    def of(self, fitted: Mapping[str, FittedAttacker], validation: FeatureView, budget: Budget) -> FittedEnsemble:
        """Combine fitted attackers; nothing is trained.

        Raises:
            AuditError: None is given.
        """
        said = {name: one.predict_logits(validation) for name, one in fitted.items()}
        return FittedEnsemble(combine(said, validation.labels, budget.seed), fitted)

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedEnsemble:
        """Fit the members that can read these features, and combine them."""
        from efface.audit.attackers import build_attacker

        quiet = Budget(budget.epochs, budget.batch_size, budget.seed, budget.device)
        outputs = 0 if train.logits is None else train.logits.shape[1]
        members = [build_attacker(name) for name in self.members]
        usable = [one for one in members if one.applies(train.shape, outputs) is None]
        fitted = {one.name: one.fit(train, validation, quiet) for one in usable}
        budget.tick()
        return self.of(fitted, validation, budget)


class FittedEnsemble(FittedAttacker):
    """Fitted attackers with their weights; ``epoch`` is the number of members that have one."""

    def __init__(self, combination: Combination, members: Mapping[str, FittedAttacker]):
        self.combination = combination
        self.members = {name: members[name] for name in combination.weights}
        self.validation_accuracy = combination.validation_accuracy
        self.epoch, self.warning = len(self.members), None

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        return self.combination.logits({name: one.predict_logits(view) for name, one in self.members.items()})
