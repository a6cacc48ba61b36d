"""From an attacker's logits to I(h;z) and I(h;z|y): calibration, a probe that also knows y, and prequential codes.

Everything here is fitted on validation people and read on others. All bounds are from below: a weak probe only lowers
them. Card: docs/audit.md; the checks against known information: docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.attackers.base import Attacker, Budget, FeatureView
from efface.audit.floors import entropy, joint_table
from efface.errors import AuditError, expected
from efface.shapes import Labels, Logits

SHARES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
"""Where the prequential code is cut, as shares of the training people."""
RIDGE = 1e-3
"""Pull of calibrations toward changing nothing: nats per squared unit. Keeps separable people finite."""
SMOOTHING = 0.5
"""People added to every cell of p(z|y) (Krichevsky and Trofimov, 1981)."""


@dataclass(frozen=True)
class Calibration:
    """A scale and a shift per class, fitted to the cross-entropy on validation. The scale may be negative.

    An attacker that is always wrong about a binary attribute knows it: with a negative scale its bits say so. A
    temperature alone, which cannot change sign, would report none.

    Attributes:
        scale: Factor of the log-probabilities.
        shift: ``[A]`` added to them.
    """

    scale: float
    shift: Float[Tensor, " A"]

    @classmethod
    def fit(cls, logits: Logits, labels: Labels) -> Calibration:
        """Fit on validation.

        Example:
            >>> z = torch.arange(200) % 2
            >>> Calibration.fit(-2 * torch.eye(2)[z], z).scale < 0
            True
        """
        own = logits.double().log_softmax(1)
        start = torch.cat([torch.ones(1), torch.zeros(own.shape[1])]).double()
        found = _least_loss(lambda p: p[0] * own + p[1:], labels, start)
        return cls(float(found[0]), found[1:])

    def logits(self, logits: Logits) -> Logits:
        """Return calibrated logits."""
        return (self.scale * logits.double().log_softmax(1) + self.shift).float()


@dataclass(frozen=True)
class ConditionalProbe:
    """q(z|h,y) from an attacker's q(z|h) and the table p(z|y): log-linear, with three weights fitted on validation.

    log q(z|h,y) = own·log q(z|h) + target·log p(z|y) + prior·log p(z) + constant. Exact where h and y are independent
    given z (weights 1, 1, −1), where h tells y (1, 0, 0), and where h says nothing beyond y (0, 1, 0).

    It cannot find what h says of z *only together with* y (h = y XOR z): the attacker it starts from sees none of that.
    An attacker on the pair (y, z) does; see ``split_pair``.

    Attributes:
        own: Weight of the attacker.
        target: Weight of p(z|y).
        prior: Weight of p(z).
        table: ``[Y+1, A]`` p(z|y), smoothed; the first row is for people whose y is missing.
    """

    own: float
    target: float
    prior: float
    table: Float[Tensor, "R A"]

    @classmethod
    def fit(cls, logits: Logits, attribute: Labels, target: Labels, table: Float[Tensor, "R A"]) -> ConditionalProbe:
        """Fit on validation.

        Args:
            logits: The attacker's, of the validation people.
            attribute: Their z.
            target: Their y, -1 where missing.
            table: p(z|y) (``target_table``).
        """
        inputs = _conditional_inputs(logits, target, table)
        # From "h says nothing beyond y": what is not worth its risk stays there.
        start = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        weights = _least_loss(lambda p: inputs @ p, attribute, start)
        own, of_target, of_prior = weights.tolist()
        return cls(own, of_target, of_prior, table)

    def logits(self, logits: Logits, target: Labels) -> Logits:
        """Return logits of q(z|h,y)."""
        weights = torch.tensor([self.own, self.target, self.prior], dtype=torch.float64)
        return (_conditional_inputs(logits, target, self.table) @ weights).float()


def target_table(
    target: Int[np.ndarray, " n"], attribute: Int[np.ndarray, " n"], targets: int, classes: int
) -> Float[Tensor, "R A"]:
    """Return p(z|y) of people whose z is known, smoothed; the first row is for a missing y.

    A y that nobody has gets a row near 1/A.

    Example:
        >>> target_table(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]), 2, 2)[1:]
        tensor([[0.8750, 0.1250],
                [0.2500, 0.7500]])
    """
    counts = np.full((targets + 1, classes), SMOOTHING)
    np.add.at(counts, (target + 1, attribute), 1)
    return torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()


def _conditional_inputs(logits: Logits, target: Labels, table: Float[Tensor, "R A"]) -> Float[Tensor, "B A 3"]:
    own = logits.double().log_softmax(1)
    given = table.double().log()[target + 1]
    # p(z) as the table's rows give it, each as often as its y occurs here.
    marginal = table.double()[target + 1].mean(0).log().expand_as(own)
    return torch.stack([own, given, marginal], 2)


def pair_labels(target: Labels, attribute: Labels, classes: int) -> Labels:
    """Return one label per pair (y, z), for an attacker that learns both; a missing y (-1) is a class of its own."""
    return (target + 1) * classes + attribute


def split_pair(logits: Float[Tensor, "B P"], target: Labels, classes: int) -> tuple[Logits, Logits]:
    """Return logits of q(z|h) and of q(z|h,y) from those of an attacker on the pair (y, z).

    q(z|h) = Σ_y q(y,z|h) and q(z|h,y) ∝ q(y,z|h): one attacker gives both, and finds what h says of z only together
    with y.

    Args:
        logits: Over the labels of ``pair_labels``.
        target: y of each person, -1 where missing.
        classes: A.
    """
    pairs = logits.log_softmax(1).unflatten(1, (-1, classes))
    return pairs.logsumexp(1), pairs[torch.arange(len(target)), target + 1]


def _least_loss(
    logits: Callable[[Float[Tensor, " P"]], Logits], labels: Labels, start: Float[Tensor, " P"]
) -> Float[Tensor, " P"]:
    """Return the parameters with the least cross-entropy; logits are linear in them, so the problem is convex."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], 1.0, 100, line_search_fn="strong_wolfe", tolerance_change=1e-10)

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(parameters), labels) + RIDGE * (parameters - start).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return parameters.detach()


@dataclass(frozen=True)
class Prequential:
    """A code of the training people's z, block by block, each told with what was learned from those before it.

    Attributes:
        known: People learned from before each block.
        bits: Bits per person in each block: the attacker's learning curve in bits.
        codelength: Bits in all.
        information: H(z) − codelength per person, bits: a lower bound of I(h;z) that also charges for learning.
    """

    known: tuple[int, ...]
    bits: tuple[float, ...]
    codelength: float
    information: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "known": list(self.known), "bits": list(self.bits)}


def prequential(
    attacker: Attacker, train: FeatureView, validation: FeatureView, budget: Budget, shares: Sequence[float] = SHARES
) -> Prequential:
    """Fit an attacker on growing parts of the training people and tell each next part with it.

    The first part is told at log2 A bits per person. Validation is known to sender and receiver, and picks epochs.
    Costs as many fits as there are parts, Σ shares of a full fit in time.

    Source: Dawid (1984); Voita and Titov (2020), online coding; Blier and Ollivier (2018).

    Raises:
        AuditError: The shares do not rise to 1.
    """
    if not shares or sorted(set(shares)) != list(shares) or shares[0] <= 0 or shares[-1] != 1:
        raise AuditError(expected("shares", "rising fractions that end with 1", tuple(shares)))
    generator = torch.Generator().manual_seed(budget.seed)
    order = torch.randperm(len(train), generator=generator)
    ends = sorted({max(train.classes, round(share * len(train))) for share in shares})
    bits = [math.log2(train.classes)]
    for start, end in pairwise(ends):
        fitted = attacker.fit(_some(train, order[:start]), validation, budget)
        block = _some(train, order[start:end])
        bits.append(float(F.cross_entropy(fitted.predict_logits(block), block.labels)) / math.log(2))
    sizes = np.diff([0, *ends])
    total = float(np.dot(sizes, bits))
    joint = joint_table(np.zeros(len(train), np.int64), train.labels.numpy(), train.classes)
    return Prequential((0, *ends[:-1]), tuple(bits), total, entropy(joint) - total / len(train))


def _some(view: FeatureView, people: Int[Tensor, " B"]) -> FeatureView:
    people = people.sort().values
    return FeatureView(view.source, view.rows[people.numpy()], view.labels[people], view.classes)
