"""A linear probe: multinomial logistic regression on all standardised features. Card: docs/attackers/linear.md.

The problem is convex, so it is solved rather than trained: L-BFGS on all people at once, along a path of penalties
from strong to weak, each solution the start of the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature
from efface.engine.devices import has_fast_bfloat16
from efface.shapes import Features, Labels, Logits

WIDEST = 8192
"""Most features; wider maps are averaged over 2×2 cells until they fit."""
PEOPLE = 50_000
"""Most people learned from, drawn by seed."""
EXACT = 2**24
"""Up to so many numbers the design matrix is float32, bf16 above: half the time."""
CHUNK = 4096


class LinearAttacker(Attacker):
    """Logistic regression; validation picks the penalty.

    Attributes:
        penalties: Factors of ‖W‖²/2 beside the mean cross-entropy in nats, from strong to weak.
        iterations: Of L-BFGS at each penalty.
        scaling: ``standardised`` per channel, or ``raw``: one shift and scale for all channels, so that the penalty
            spares channels of large spread.
    """

    name = "linear"
    scaling: Literal["standardised", "raw"] = "standardised"
    penalties: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
    iterations: int = 20

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core."""
        people, width = min(people, PEOPLE), flat_width(shape)
        evaluations = 1.25 * self.iterations * len(self.penalties)
        bytes_read = 2 * people * width * (4 if people * width <= EXACT else 2)
        return people * width / 1.2e8 + evaluations * bytes_read / 8e9

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedAttacker:
        """Follow the path of penalties; stop once validation has got worse twice in a row."""
        generator = torch.Generator().manual_seed(budget.seed)
        people = torch.randperm(len(train), generator=generator)[:PEOPLE].sort().values
        problem = Problem.of(train, people, budget.device, self.scaling)
        held_out = Problem.of(validation, torch.arange(len(validation)), budget.device, self.scaling)
        weight = torch.zeros(train.classes, problem.inputs.shape[1], device=budget.device)
        bias = prior(problem.labels, train.classes)
        best, lowest, worse = (-1.0, -math.inf, 0, weight, bias), math.inf, 0
        for place, penalty in enumerate(self.penalties, 1):
            weight, bias = solve(problem, weight, bias, penalty, self.iterations)
            logits = held_out.logits(weight, bias)
            loss = float(F.cross_entropy(logits, held_out.labels))
            accuracy = float((logits.argmax(1) == held_out.labels).double().mean())
            worse = 0 if loss < lowest or accuracy > best[0] else worse + 1
            lowest = min(lowest, loss)
            best = max(best, (accuracy, -loss, place, weight, bias), key=lambda found: found[:2])
            if place <= budget.epochs:
                budget.tick()
            if worse == 2:
                break
        temperature = fit_temperature(held_out.logits(*best[3:]).cpu(), validation.labels)
        return FittedLinear(best[0], best[2], None, best[3], best[4], temperature, self.scaling)


class RawLinearAttacker(LinearAttacker):
    """`linear` on features as released, without scaling of the channels."""

    name = "linear-raw"
    scaling = "raw"


@dataclass
class FittedLinear(FittedAttacker):
    """A logistic regression; ``epoch`` is the place of its penalty on the path."""

    validation_accuracy: float
    epoch: int
    warning: str | None
    weight: Float[Tensor, "A F"]
    bias: Float[Tensor, " A"]
    temperature: float
    scaling: Literal["standardised", "raw"] = "standardised"

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        parts = torch.arange(len(view)).split(CHUNK)
        inputs = (read(view, people, self.scaling).to(self.weight.device) for people in parts)
        return torch.cat([F.linear(x, self.weight, self.bias).cpu() for x in inputs]) / self.temperature


@dataclass(frozen=True)
class Problem:
    """A design matrix with its labels, on the device.

    Attributes:
        inputs: ``[n, F]`` standardised and flattened features.
        labels: ``[n]``.
    """

    inputs: Float[Tensor, "n F"]
    labels: Labels

    @classmethod
    def of(
        cls, view: FeatureView, people: Int[Tensor, " n"], device: torch.device, scaling: str = "standardised"
    ) -> Problem:
        """Read features of some people into memory, chunk by chunk."""
        width = flat_width(view.shape)
        fits = len(people) * width <= EXACT or not has_fast_bfloat16()
        dtype = torch.float32 if fits else torch.bfloat16
        inputs = torch.empty(len(people), width, dtype=dtype, device=device)
        for start in range(0, len(people), CHUNK):
            inputs[start : start + CHUNK] = read(view, people[start : start + CHUNK], scaling)
        return cls(inputs, view.labels[people].to(device))

    def logits(self, weight: Float[Tensor, "A F"], bias: Float[Tensor, " A"]) -> Float[Tensor, "n A"]:
        """Return logits in float32.

        A row of the weight per class, as a linear layer has it: its gradient, a thin matrix, then comes out in rows,
        which takes 1/24 to 1/7 of the time of columns on an AMD processor with AVX2 (in bf16 1/5 to 1/3).
        """
        return F.linear(self.inputs, weight.to(self.inputs.dtype)).float() + bias


def solve(
    problem: Problem, weight: Float[Tensor, "A F"], bias: Float[Tensor, " A"], penalty: float, iterations: int
) -> tuple[Float[Tensor, "A F"], Float[Tensor, " A"]]:
    """Minimise mean cross-entropy + penalty · ‖W‖²/2 by L-BFGS, from the given start.

    Source: Liu and Nocedal (1989).
    """
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], 1.0, iterations, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        loss = F.cross_entropy(problem.logits(weight, bias), problem.labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def prior(labels: Labels, classes: int) -> Float[Tensor, " A"]:
    """Return log-frequencies of the classes; absent ones count as half a person."""
    counts = torch.bincount(labels, minlength=classes).float().clamp_min(0.5)
    return (counts / counts.sum()).log()


def read(view: FeatureView, people: Int[Tensor, " B"], scaling: str) -> Float[Tensor, "B F"]:
    """Return the flattened features of some people, scaled."""
    return flattened(view.raw(people) if scaling == "raw" else view.standardised(people))


def flat_width(shape: tuple[int, ...]) -> int:
    """Return how many numbers the attacker reads.

    Example:
        >>> flat_width((64, 8, 8))
        4096
    """
    return flattened(torch.empty(1, *shape, device="meta")).shape[1]


def flattened(features: Features) -> Float[Tensor, "B F"]:
    """Return one row per person; maps beyond 8192 numbers are averaged over 2×2 cells until they fit.

    Example:
        >>> flattened(torch.zeros(2, 128, 8, 8)).shape, flattened(torch.zeros(2, 128, 16, 16)).shape
        (torch.Size([2, 8192]), torch.Size([2, 8192]))
    """
    while features.ndim == 4 and features[0].numel() > WIDEST and min(features.shape[2:]) > 1:
        features = F.avg_pool2d(features, 2)
    return features.flatten(1)
