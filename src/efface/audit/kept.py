"""What columns that were kept on request tell of an attribute by themselves: a release that tells them tells that too.

A column in ``method.preserve`` that goes with the attribute sets a floor above the label floor: an encoder that removes
all else still releases what target and kept columns say together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from efface.audit import metrics
from efface.audit.attack import NO_TARGET, Settings
from efface.audit.features import FeatureSet
from efface.audit.intervals import Interval, accuracy_interval
from efface.audit.probe import PEOPLE, plain
from efface.audit.remembered import once
from efface.audit.selectivity import coarsened
from efface.data.schema import Column

ROUNDS = 50
"""Of boosting: enough for a table of labels."""
MOST_CATEGORIES = 255
"""A target of more classes is read as a number: the trees take no more."""


@dataclass(frozen=True)
class Kept:
    """How well the attribute is guessed by one who is told the true target and the true kept columns, and no feature.

    Attributes:
        columns: The kept ones that were read: those of too many names can't be. Many classes are made coarser.
        n: People guessed: those whose attribute is known.
        accuracy: Of boosted trees on the labels, fitted on the train split.
        ci: Of the accuracy, over people.
        excess_leakage: (accuracy − label floor) / (best on the original − label floor), at least 0; None where no
            attacker sees the attribute in the original.
    """

    columns: tuple[str, ...]
    n: int
    accuracy: float
    ci: Interval
    excess_leakage: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return plain(self)


def told_by_kept(
    features: FeatureSet,
    column: Column,
    kept: tuple[Column, ...],
    settings: Settings,
    label_floor: float,
    original: float | None,
) -> Kept | None:
    """Guess an attribute from the labels of target and kept columns alone; None where nothing was kept.

    Args:
        features: Whose labels are read; of the features nothing is.
        column: The attribute.
        kept: Columns that training kept on request; those of many classes are made coarser, as for selectivity.
        settings: The split read, the task, confidence and resamples.
        label_floor: Of the attribute.
        original: The best attacker's accuracy on the original; None without one, or within noise of the floor.
    """
    if not kept:
        return None
    audited, how = settings.config.split, settings.how
    names = (column.name, *(() if settings.target == NO_TARGET else (settings.target,)))
    known = {split: {name: features.labels[split][name] for name in names} for split in ("train", audited)}
    read = []
    for one in kept:
        labels = {split: features.labels[split][one.name] for split in features.features}
        coarse, _ = coarsened(one, labels, audited)
        if coarse is not None:
            read.append(one.name)
            for split in known:
                known[split][one.name] = coarse[1][split]
    if not read:
        return None
    correct = once(
        lambda: f"kept {_digest(known)} {settings.seed}",
        lambda: _guessed(*_table(known["train"], column.name), *_table(known[audited], column.name), settings.seed),
    )
    accuracy = float(correct.mean())
    return Kept(
        columns=tuple(read),
        n=len(correct),
        accuracy=accuracy,
        ci=accuracy_interval(correct, how.confidence, how.resamples, how.seed),
        excess_leakage=None if original is None else metrics.excess_leakage(accuracy, original, label_floor),
    )


def _guessed(
    x: Int[np.ndarray, "m C"],
    z: Int[np.ndarray, " m"],
    asked: Int[np.ndarray, "n C"],
    truth: Int[np.ndarray, " n"],
    seed: int,
) -> Bool[np.ndarray, " n"]:
    """Return which of the audited people trees guess right that learned from the train split's labels."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(z) > PEOPLE:
        drawn = np.random.default_rng(seed).choice(len(z), PEOPLE, replace=False)
        x, z = x[drawn], z[drawn]
    few = (np.maximum(x.max(0), asked.max(0)) < MOST_CATEGORIES).tolist()
    trees = HistGradientBoostingClassifier(
        max_iter=ROUNDS, categorical_features=few, early_stopping=False, random_state=seed
    )
    return np.asarray(trees.fit(x, z).predict(asked) == truth)


def _digest(known: Mapping[str, Mapping[str, Int[np.ndarray, " n"]]]) -> str:
    found = hashlib.sha256()
    for split, columns in known.items():
        for name, labels in columns.items():
            found.update(f"{split} {name} ".encode() + labels.tobytes())
    return found.hexdigest()


def _table(
    known: Mapping[str, Int[np.ndarray, " n"]], attribute: str
) -> tuple[Int[np.ndarray, "m C"], Int[np.ndarray, " m"]]:
    """Return what is told of each person whose attribute is known, and the attribute; a missing label is a value."""
    seen = known[attribute] >= 0
    columns = [labels[seen] + 1 for name, labels in known.items() if name != attribute]
    return np.stack(columns, 1), known[attribute][seen]


__all__ = ["Kept", "told_by_kept"]
