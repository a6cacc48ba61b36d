"""Learning curves: what the best attacker reaches with fewer training people, and whether it is still rising.

An attacker whose accuracy still rises when its training people are doubled would find more with more people: what the
audit found is then a floor of what others could find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from efface.audit.attack import ENSEMBLE, Arena, Settings, fit_once
from efface.audit.attackers import Attacker
from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import accuracy_interval
from efface.audit.probe import difference, tools
from efface.data.schema import Column

DOUBLINGS = 3
"""How often the training people are halved."""
FEWEST = 50
"""Training people that a point needs."""


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy over the number of training people; everybody learns from the same order of people, cut short.

    Attributes:
        attribute: Its column.
        attacker: Who learns: the best single one on validation.
        people: Training people of each point, rising.
        accuracy: Of each point, on the audited people.
        gain: What the last doubling brought, on the same people.
    """

    attribute: str
    attacker: str
    people: tuple[int, ...]
    accuracy: tuple[Figure, ...]
    gain: Figure

    @property
    def rising(self) -> bool:
        """Whether the last doubling brought more than noise."""
        return self.gain.ci[0] > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        points = zip(self.people, self.accuracy, strict=True)
        return {
            "attribute": self.attribute,
            "attacker": self.attacker,
            "points": [{"people": people, "accuracy": figure.to_dict()} for people, figure in points],
            "gain": self.gain.to_dict(),
            "rising": self.rising,
        }


def learning_curve(
    features: FeatureSet, column: Column, attacker: Attacker, settings: Settings
) -> LearningCurve | None:
    """Fit an attacker to an eighth, a quarter, a half and all of the training people; None if these are too few.

    Args:
        features: Of the audited model.
        column: The attribute.
        attacker: Who learns.
        settings: How long, on which split; ``(DOUBLINGS + 1) · epochs`` steps of its progress bar.
    """
    arena = Arena.make(features, column, settings, "fewer people")
    order = torch.from_numpy(np.random.default_rng(settings.seed).permutation(len(arena.train)))
    sizes = [len(order) // 2**halved for halved in range(DOUBLINGS, -1, -1)]
    sizes = [size for size in sizes if size >= FEWEST and len(arena.train.labels[order[:size]].unique()) > 1]
    if len(sizes) < 2:
        return None
    rows = []
    for size in sizes:
        fewer = Arena(arena.train.some(order[:size].sort().values), arena.validation, arena.audited, None, arena.of)
        logits = fit_once(attacker, fewer, column, settings).predict_logits(arena.audited)
        rows.append((logits.argmax(1) == arena.audited.labels).numpy())
    figures = tuple(Figure(float(right.mean()), accuracy_interval(right, *tools(settings.how))) for right in rows)
    return LearningCurve(
        column.name, attacker.name, tuple(sizes), figures, difference(rows[-1], rows[-2], settings.how)
    )


def best_single(entry: Mapping[str, Any]) -> str:
    """Return the attacker that validation picks among those that are fitted themselves.

    Example:
        >>> rows = [{"name": "linear", "validation_accuracy": 0.6}, {"name": "ensemble", "validation_accuracy": 0.7}]
        >>> best_single({"attackers": rows})
        'linear'
    """
    rows = [row for row in entry["attackers"] if row["name"] != ENSEMBLE] or entry["attackers"]
    return max(rows, key=lambda row: row["validation_accuracy"])["name"]
