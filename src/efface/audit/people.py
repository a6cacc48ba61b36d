"""Who attackers learn from: the encoder's own training people, or people whom the encoder never saw.

An encoder knows its own training people better than others, and unlearns on them: what is read off them may not carry
over to the people attacked, or more may. Both figures are reported, beside one that separates the number of people from
who they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from efface.audit.attackers import FeatureView
from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import mean_interval
from efface.audit.probe import Probing, Reading, read_each, read_views, some, tools, view
from efface.data.schema import Column
from efface.errors import AuditError, Problems, expected


@dataclass(frozen=True)
class Fold:
    """One way to divide people whom the encoder never saw.

    Attributes:
        train: Attackers learn from them.
        validation: Picks epochs and attackers.
        audited: Are read; none of them is in ``train``.
    """

    train: FeatureView
    validation: FeatureView
    audited: FeatureView


@dataclass(frozen=True)
class TrainingPeople:
    """An attribute, read by attackers that learned from different people. All are read on the same people.

    Attributes:
        attribute: Its column.
        own: Attackers learned from the encoder's training people.
        matched: From as many of these as of the others, drawn by seed.
        unseen: From people the encoder never saw, cross-fitted.
        people: Training people of the three.
        difference: unseen − matched: what it changes who they are, their number aside.
    """

    attribute: str
    own: Figure
    matched: Figure
    unseen: Figure
    people: tuple[int, int, int]
    difference: Figure

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("own", "matched", "unseen")
        rows = {
            name: {**getattr(self, name).to_dict(), "people": count}
            for name, count in zip(names, self.people, strict=True)
        }
        return {"attribute": self.attribute, **rows, "difference": self.difference.to_dict()}


def unseen_people(
    features: FeatureSet, column: Column, split: str = "test", folds: int = 2, seed: int = 0
) -> list[Fold]:
    """Divide a split that the encoder never saw into folds: attackers learn from the others and are read on one.

    Every person of the split with a label is read once. Classes are spread evenly over the folds. Validation picks, as
    always: no encoder was fitted to it, though epochs of the encoder may have been picked by it. Features stay
    standardised by the encoder's training people.

    Args:
        features: What the encoder releases.
        column: The attribute.
        split: The people divided.
        folds: 2: learn from one half, read the other, and swap.
        seed: Of the division.

    Raises:
        AuditError: The split is ``train`` or ``validation``, folds are too few, or people are fewer than folds.
    """
    problems = Problems(AuditError)
    if split in ("train", "validation"):
        problems.add(expected("split", "one the encoder never saw and that picks nothing, such as test", split))
    if folds < 2:
        problems.add(expected("folds", "at least 2", folds))
    problems.raise_if_any()
    everybody, validation = view(features, column, split), view(features, column, "validation")
    if len(everybody) < folds:
        raise AuditError(f"{len(everybody)} people of the {split} split have a label: too few for {folds} folds.")
    place = _places(everybody, folds, seed)
    return [Fold(_part(everybody, place != k), validation, _part(everybody, place == k)) for k in range(folds)]


def read_unseen(features: FeatureSet, column: Column, probing: Probing, folds: int = 2) -> Reading:
    """Probe an attribute with attackers that learned from people the encoder never saw; folds are put together.

    Args:
        features: Usually condensed.
        column: The attribute.
        probing: Who probes, and whom; ``folds · probing.steps`` steps of its progress bar.
        folds: See ``unseen_people``.
    """
    return joined([read() for read in _of_unseen(features, column, probing, folds)])


def _of_unseen(features: FeatureSet, column: Column, probing: Probing, folds: int) -> list[Callable[[], Reading]]:
    divided = unseen_people(features, column, probing.split, folds, probing.seed)
    what = f"{column.name}, learned from unseen people,"
    return [partial(read_views, fold.train, fold.validation, fold.audited, probing, what) for fold in divided]


def joined(parts: Sequence[Reading]) -> Reading:
    """Return readings of different people as one; in the order of their rows."""
    order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
    names = ("labels", "correct", "bits", "rows")
    together = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}
    attackers = ", ".join(dict.fromkeys(part.attacker for part in parts))
    validation = float(np.mean([part.validation_accuracy for part in parts]))
    return Reading(attackers, validation, **together)


def compare_training_people(
    features: FeatureSet, column: Column, probing: Probing | None = None, folds: int = 2
) -> TrainingPeople:
    """Read an attribute by attackers that learned from the encoder's people, and from people it never saw.

    Args:
        features: Usually condensed.
        column: The attribute.
        probing: Who probes, and whom; ``(2 + folds) · probing.steps`` steps of its progress bar.
        folds: See ``unseen_people``.
    """
    probing = probing or Probing()
    train, validation, audited = (view(features, column, name) for name in ("train", "validation", probing.split))
    number = min(len(train), len(audited) * (folds - 1) // folds, probing.people)
    fewer, name = some(train, number, probing.seed + 1), column.name
    tasks: list[Callable[[], Reading]] = [
        partial(read_views, train, validation, audited, probing, f"{name}, learned from the encoder's people,"),
        partial(read_views, fewer, validation, audited, probing, f"{name}, learned from as few of them,"),
        *_of_unseen(features, column, replace(probing, people=number), folds),
    ]
    own, matched, *parts = read_each(
        tasks, lambda: probing.seconds(len(train), features.shape[0], column.n_classes), probing
    )
    unseen = joined(parts)
    how = probing.how
    gap = unseen.correct.astype(float) - matched.correct
    return TrainingPeople(
        attribute=column.name,
        own=own.accuracy(how),
        matched=matched.accuracy(how),
        unseen=unseen.accuracy(how),
        people=(min(len(train), probing.people), number, number),
        difference=Figure(float(gap.mean()), mean_interval(gap, *tools(how))),
    )


def _places(people: FeatureView, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold of each person: class by class, in a random order, one fold after the other."""
    labels = people.labels.numpy()
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) % folds
    return place


def _part(people: FeatureView, chosen: np.ndarray) -> FeatureView:
    where = np.flatnonzero(chosen)
    return FeatureView(people.source, people.rows[where], people.labels[torch.from_numpy(where)], people.classes)
