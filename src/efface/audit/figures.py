"""The figures of one attack, from logits on people held out, with intervals over people and over attacker seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.audit.floors import joint_table
from efface.audit.intervals import (
    Interval,
    Resampling,
    seeded_accuracy_interval,
    seeded_interval,
    weighted_interval,
)
from efface.audit.metrics import auc, balanced_accuracy, pointwise_bits, two_sided
from efface.errors import AuditError, Problems, expected
from efface.shapes import Labels


@dataclass(frozen=True)
class HeldOut:
    """What an attacker said of people it never saw.

    Attributes:
        logits: ``[S, n, A]`` of q(z|h), calibrated, one layer per attacker seed.
        labels: ``[n]`` z, none missing.
        target: ``[n]`` y, -1 where missing; None: no figure is conditioned on y.
        conditional: ``[S, n, A]`` logits of q(z|h,y) (``information.ConditionalProbe``), or None.
    """

    logits: Float[Tensor, "S n A"]
    labels: Labels
    target: Labels | None = None
    conditional: Float[Tensor, "S n A"] | None = None

    def __post_init__(self) -> None:
        problems = Problems(AuditError)
        if not len(self.labels):
            problems.add(expected("labels", "the classes of at least one person", "nobody"))
        elif bool((self.labels < 0).any()):
            problems.add(expected("labels", "without missing ones (-1)", int(self.labels.min()), "Leave them out."))
        if self.conditional is not None and self.target is None:
            problems.add("`conditional` is given without `target`: I(h;z|y) needs both.")
        problems.raise_if_any()

    @property
    def classes(self) -> int:
        """Number of classes A."""
        return self.logits.shape[2]

    @property
    def guesses(self) -> Int[np.ndarray, "S n"]:
        """The class each seed guesses for each person."""
        return self.logits.argmax(2).numpy()

    @property
    def correct(self) -> Bool[np.ndarray, "S n"]:
        """Whom each seed guesses right."""
        return self.guesses == self.labels.numpy()


@dataclass(frozen=True)
class Figure:
    """A value with its interval.

    Example:
        >>> Figure(0.5, (0.4, 0.6)).to_dict()
        {'value': 0.5, 'ci': [0.4, 0.6]}
    """

    value: float
    ci: Interval

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"value": self.value, "ci": list(self.ci)}


@dataclass(frozen=True)
class Figures:
    """What one attack reached; means over attacker seeds.

    Attributes:
        accuracy: Share guessed right, as it is.
        efficacy: The same, two-sided if the attribute is binary.
        balanced_accuracy: Mean over classes of the share guessed right; two-sided if binary.
        auc: One class against the rest, macro average; two-sided if binary. None where all people are of one class.
        bits: I(h;z) from below, bits.
        bits_given_target: I(h;z|y) from below, bits; None without y.
        n: People.
        seeds: Attacker seeds S.
    """

    accuracy: Figure
    efficacy: Figure
    balanced_accuracy: Figure
    auc: Figure | None
    bits: Figure
    bits_given_target: Figure | None
    n: int
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.to_dict() if isinstance(value, Figure) else value for name, value in values.items()}


def measure(attack: HeldOut, how: Resampling | None = None) -> Figures:
    """Return every figure of an attack.

    Example:
        >>> z = torch.arange(100) % 2
        >>> figures = measure(HeldOut(torch.eye(2)[z][None] * 50, z), Resampling(resamples=100))
        >>> figures.accuracy.value, figures.auc.value, round(figures.bits.value, 3)
        (1.0, 1.0, 1.0)
    """
    how = how or Resampling()
    # The better side of a binary attribute is a choice between two.
    sided = how.widened(2) if attack.classes == 2 else how
    correct = attack.correct
    accuracy = float(correct.mean())
    return Figures(
        accuracy=Figure(accuracy, seeded_accuracy_interval(correct, how)),
        efficacy=_two_sided(accuracy, seeded_accuracy_interval(correct, sided), attack.classes),
        balanced_accuracy=_balanced(attack, sided),
        auc=_auc(attack, sided),
        bits=_information(attack.logits, attack, None, how),
        bits_given_target=None
        if attack.conditional is None
        else _information(attack.conditional, attack, attack.target, how),
        n=correct.shape[1],
        seeds=correct.shape[0],
    )


def _two_sided(value: float, interval: Interval, classes: int) -> Figure:
    return Figure(*two_sided(value, interval, classes))


def _balanced(attack: HeldOut, how: Resampling) -> Figure:
    labels, guesses = attack.labels.numpy(), attack.guesses
    figure = _crossed(lambda seed, counts: balanced_accuracy(guesses[seed], labels, counts), attack, how)
    return _two_sided(figure.value, figure.ci, attack.classes)


def _auc(attack: HeldOut, how: Resampling) -> Figure | None:
    labels, scores = attack.labels.numpy(), attack.logits.double().log_softmax(2).numpy()
    if len(np.unique(labels)) < 2:
        return None
    figure = _crossed(lambda seed, counts: auc(scores[seed], labels, counts), attack, how)
    return _two_sided(figure.value, figure.ci, attack.classes)


def _crossed(
    statistic: Callable[[int, Float[np.ndarray, "R n"]], Float[np.ndarray, " R"]], attack: HeldOut, how: Resampling
) -> Figure:
    """A figure that is no mean over people: its value, and people and seeds resampled."""

    def per_seed(counts: Float[np.ndarray, "R n"]) -> Float[np.ndarray, "R S"]:
        return np.stack([statistic(seed, counts) for seed in range(len(attack.logits))], 1)

    people = len(attack.labels)
    value = float(per_seed(np.ones((1, people), np.float32)).mean())
    return Figure(value, weighted_interval(per_seed, people, how))


def _information(logits: Float[Tensor, "S n A"], attack: HeldOut, given: Labels | None, how: Resampling) -> Figure:
    """H(z) or H(z|y), less the cross-entropy: bits."""
    labels = attack.labels.numpy()
    known = np.zeros_like(labels) if given is None else given.numpy()
    joint = joint_table(known, labels, attack.classes)
    without = torch.from_numpy((joint / joint.sum(1, keepdims=True).clip(1e-300))[known + 1, labels])
    values = np.stack([pointwise_bits(rows, attack.labels, without) for rows in logits])
    return Figure(float(values.mean()), seeded_interval(values, how))
