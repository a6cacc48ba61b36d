"""Fisher's discriminant in full precision, at several ridges. Card: docs/attackers/least-squares.md.

A model that was trained against attackers may leave z where they do not look: in directions whose variance is a
thousandth of the others'. Gradient descent gets there last, and bf16 rounds them away. A closed-form solution
whitens all directions at once.

For two classes the direction is that of least squares. For more, least squares would never name a class that lies
between two others; the discriminant does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature, score
from efface.audit.attackers.linear import CHUNK, PEOPLE, flat_width, flattened, prior
from efface.shapes import Logits

TINY = 1e-6


class LeastSquaresAttacker(Attacker):
    """Fisher's discriminant in float64, down to directions of little variance; validation picks the ridge.

    Source: Fisher (1936); Friedman (1989) for the ridge.

    Attributes:
        ridges: Added to the diagonal of the covariance within classes, from strong to weak; features have spread 1.
    """

    name = "least-squares"
    ridges: tuple[float, ...] = (3.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core."""
        people, width = min(people, PEOPLE), flat_width(shape)
        return people * width**2 / 2.5e10 + len(self.ridges) * width**3 / 3 / 2.5e10

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Solve for every ridge: what hides in small directions shows at the weakest only."""
        people = torch.randperm(len(train), generator=torch.Generator().manual_seed(budget.seed))[:PEOPLE].sort().values
        scale = Scale.of(train, people)
        within, means = class_moments(train, people, scale, _in_double(budget.device))
        log_shares = prior(train.labels[people], train.classes).double()
        held_out = torch.cat([scale.read(validation, rows) for rows in torch.arange(len(validation)).split(CHUNK)])
        best, top = None, (-1.0, -math.inf)
        damped = torch.empty_like(within)
        for place, ridge in enumerate(self.ridges, 1):
            damped.copy_(within).diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if failed:
                break
            solved = torch.cholesky_solve(means, factor)
            weight, bias = solved.cpu(), log_shares - ((means * solved).sum(0) / 2).cpu()
            found = score((held_out @ weight + bias).float(), validation.labels)
            if best is None or found > top:
                best, top = (place, weight, bias), found
            if place <= budget.epochs:
                budget.tick()
        assert best is not None, "the strongest ridge can always be solved"
        place, weight, bias = best
        temperature = fit_temperature((held_out @ weight + bias).float(), validation.labels)
        return FittedLeastSquares(top[0], place, None, weight, bias, scale, temperature)


@dataclass(frozen=True)
class Scale:
    """Mean and spread of every number of the features, over the training people.

    Attributes:
        mean: ``[F]``.
        std: ``[F]``; 1 where a number is constant.
    """

    mean: Float64[Tensor, " F"]
    std: Float64[Tensor, " F"]

    @classmethod
    def of(cls, view: FeatureView, people: Int[Tensor, " n"]) -> Scale:
        """Read the people once."""
        total = squares = torch.zeros(flat_width(view.shape), dtype=torch.float64)
        for rows in people.split(CHUNK):
            values = flattened(view.standardised(rows)).double()
            total, squares = total + values.sum(0), squares + values.square().sum(0)
        mean = total / len(people)
        std = (squares / len(people) - mean.square()).clamp_min(0).sqrt()
        return cls(mean, torch.where(std > TINY, std, 1.0))

    def read(self, view: FeatureView, people: Int[Tensor, " B"]) -> Float64[Tensor, "B F"]:
        """Return the flattened features of some people, each number with mean 0 and spread 1."""
        return (flattened(view.standardised(people)).double() - self.mean) / self.std


def _in_double(device: torch.device) -> torch.device:
    """Return where to compute in float64: Apple's GPUs can't."""
    return torch.device("cpu") if device.type == "mps" else device


def class_moments(
    train: FeatureView, people: Int[Tensor, " n"], scale: Scale, device: torch.device
) -> tuple[Float64[Tensor, "F F"], Float64[Tensor, "F A"]]:
    """Return the covariance within classes, and the classes' means, summed up in float64.

    The mean of all is 0; a class that nobody has is there.
    """
    width, classes = len(scale.mean), train.classes
    moments = torch.zeros(width, width, dtype=torch.float64, device=device)
    sums = torch.zeros(width, classes, dtype=torch.float64, device=device)
    for rows in people.split(CHUNK):
        inputs = scale.read(train, rows).to(device)
        moments.addmm_(inputs.T, inputs)
        # Transposed afterwards: a thin product comes out many times faster in rows than in columns.
        sums += (F.one_hot(train.labels[rows], classes).double().to(device).T @ inputs).T
    means = sums / torch.bincount(train.labels[people], minlength=classes).clamp_min(1).to(device)
    return moments.addmm_(sums, means.T, alpha=-1).div_(len(people)), means


@dataclass
class FittedLeastSquares(FittedAttacker):
    """A solution; ``epoch`` is the place of its ridge."""

    validation_accuracy: float
    epoch: int
    warning: str | None
    weight: Float64[Tensor, "F A"]
    bias: Float64[Tensor, " A"]
    scale: Scale
    temperature: float

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        parts = torch.arange(len(view)).split(CHUNK)
        said = torch.cat([self.scale.read(view, people) @ self.weight + self.bias for people in parts])
        return said.float() / self.temperature
