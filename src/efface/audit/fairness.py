"""Subgroup fidelity and parity: how the main task fares in each group of an attribute, before and after.

Group figures and differences are fairlearn's; their intervals resample people, the same before and after. Unlearning an
attribute from features promises neither equal accuracy nor equal rates: this shows what became of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import CHUNK, Resampling, accuracy_interval, percentiles
from efface.audit.probe import plain, tools
from efface.data.schema import Column
from efface.errors import AuditError

SMALL = 30
"""A rate of fewer people is marked, and left out of differences between groups."""
METRICS: tuple[str, ...] = ("accuracy", "demographic_parity", "equalized_odds")
MOST_CLASSES = 24
"""Main tasks of more classes are compared by accuracy alone."""


@dataclass(frozen=True)
class Answers:
    """What the model answered on the main task, and who was asked.

    Attributes:
        predictions: Class answered, 0 to Y − 1.
        target: The true class; -1 is missing.
        groups: Class of the attribute; -1 is missing.
        original: The original model's answers, or None.
    """

    predictions: Int[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    original: Int[np.ndarray, " n"] | None = None

    def known(self) -> Answers:
        """Leave out the people whose target or group is missing.

        Raises:
            AuditError: Nobody is left.
        """
        rows = (self.target >= 0) & (self.groups >= 0)
        if not rows.any():
            raise AuditError("Nobody has both a target and a group: subgroups can't be compared.")
        original = None if self.original is None else self.original[rows]
        return Answers(self.predictions[rows], self.target[rows], self.groups[rows], original)

    def right_or_wrong(self) -> Answers:
        """Return the same with two classes: 1 is right."""
        original = None if self.original is None else (self.original == self.target).astype(np.int64)
        right = (self.predictions == self.target).astype(np.int64)
        return Answers(right, np.ones_like(self.target), self.groups, original)


@dataclass(frozen=True)
class GroupFidelity:
    """The main task's accuracy in one group.

    Attributes:
        group: Class of the attribute.
        n: Its people.
        small: Whether they are fewer than 30, so that the figure says little.
        accuracy: Of the audited model.
        original: Of the original model, or None.
        change: accuracy − original, people resampled together, or None.
    """

    group: str
    n: int
    small: bool
    accuracy: Figure
    original: Figure | None = None
    change: Figure | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return plain(self)


@dataclass(frozen=True)
class Difference:
    """The largest difference between two groups.

    Attributes:
        metric: ``accuracy``; ``demographic_parity``: of the share answered with a class; ``equalized_odds``: the larger
            of the differences of true and false positive rates.
        value: Of the audited model, a fraction.
        original: Of the original model, or None.
        change: value − original, people resampled together, or None.
        target_class: Class of the target in which the audited model's groups differ most; None for accuracy.
        groups: The groups compared.
    """

    metric: str
    value: Figure
    original: Figure | None
    change: Figure | None
    target_class: str | None
    groups: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return plain(self)


@dataclass(frozen=True)
class Parity:
    """How the main task fares in the groups of one attribute.

    Attributes:
        attribute: Whose classes are the groups.
        target: The main task.
        n: People whose target and group are known.
        groups: Each with at least one person.
        differences: By metric, those that can be told.
        notes: What was left out, and why.
    """

    attribute: str
    target: str
    n: int
    groups: tuple[GroupFidelity, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; differences by metric."""
        return {
            "attribute": self.attribute,
            "target": self.target,
            "n": self.n,
            "groups": [group.to_dict() for group in self.groups],
            "differences": {one.metric: one.to_dict() for one in self.differences},
            "notes": list(self.notes),
        }


def group_fidelity(
    features: FeatureSet,
    original: FeatureSet | None,
    attribute: Column,
    target: Column,
    split: str = "test",
    how: Resampling | None = None,
) -> Parity:
    """Compare the groups of an attribute by the models' own logits.

    Args:
        features: Of the audited model; only labels and logits are read.
        original: Of the original model and the same people, or None.
        attribute: Whose classes are the groups.
        target: The main task.
        split: The people read.
        how: Confidence and resamples.

    Raises:
        AuditError: Nobody has both a target and a group, or there is no model that answers.
    """
    if split not in features.logits:
        raise AuditError("There is no model that answers: groups can't be compared on the main task.")
    before = None if original is None else original.logits[split].argmax(1).numpy()
    labels = features.labels[split]
    answered = features.logits[split].argmax(1).numpy()
    answers = Answers(answered, labels[target.name], labels[attribute.name], before)
    return parity(answers, attribute, target, how)


def parity(answers: Answers, attribute: Column, target: Column, how: Resampling | None = None) -> Parity:
    """Return accuracy per group and the differences between groups.

    Of a binary target, parity is of its second class, as in fairlearn; of one with more classes, each class is set
    against the rest, and the class in which the groups differ most is told; beyond 24 there is accuracy alone. Rates
    of fewer than 30 people are left out of the differences: the largest of many between small groups would be noise.

    Args:
        answers: Who was asked, and what was answered.
        attribute: Whose classes are the groups.
        target: The main task.
        how: Confidence and resamples.

    Raises:
        AuditError: Nobody has both a target and a group.

    Example:
        >>> z = np.arange(400) % 2
        >>> found = parity(Answers(z, z, z), Column("z", ("a", "b")), Column("y", ("no", "yes")))
        >>> {one.metric: one.value.value for one in found.differences}
        {'accuracy': 0.0, 'demographic_parity': 1.0}
    """
    answers, how, metrics, classes = answers.known(), how or Resampling(), METRICS, target.n_classes
    found, notes = [], []
    if classes > MOST_CLASSES:
        answers, metrics, classes = answers.right_or_wrong(), METRICS[:1], 2
        notes.append(f"{target.n_classes} classes of {target.name}: groups are compared by accuracy alone.")
    tables = _resampled(answers, (attribute.n_classes, classes), how)
    groups = _groups(answers, attribute, tables, how)
    small = [group.group for group in groups if group.small]
    if small:
        notes.append(f"Fewer than {SMALL} people: {', '.join(small)}. Left out of the differences.")
    for metric in metrics:
        one = _difference(metric, answers, attribute, target, tables, how)
        if one is None:
            notes.append(f"No {metric.replace('_', ' ')}: fewer than two groups have {SMALL} people to tell it by.")
        else:
            found.append(one)
    return Parity(attribute.name, target.name, len(answers.target), tuple(groups), tuple(found), tuple(notes))


Tables = Float[np.ndarray, "M R G Y Y"]
"""People by group, true class and answer, in each resample; the audited model first, then the original."""


def _resampled(answers: Answers, shape: tuple[int, int], how: Resampling) -> Tables:
    """Confusion tables in every resample: how often each pattern of (group, y, answers) occurs, from a multinomial."""
    given = [answers.predictions] if answers.original is None else [answers.predictions, answers.original]
    patterns, counts = np.unique(np.stack([answers.groups, answers.target, *given], 1), axis=0, return_counts=True)
    drawn = np.random.default_rng(how.seed).multinomial(len(answers.target), counts / counts.sum(), size=how.resamples)
    size = shape[0] * shape[1] ** 2
    tables = np.empty((len(given), how.resamples, size), np.float32)
    for model in range(len(given)):
        cell = (patterns[:, 0] * shape[1] + patterns[:, 1]) * shape[1] + patterns[:, 2 + model]
        order = np.argsort(cell, kind="stable")
        used, starts = np.unique(cell[order], return_index=True)
        tables[model] = 0
        for rows in np.array_split(np.arange(how.resamples), max(1, drawn.size // CHUNK)):
            tables[model, rows[:, None], used] = np.add.reduceat(drawn[rows][:, order], starts, axis=1)
    return tables.reshape(len(given), how.resamples, shape[0], shape[1], shape[1])


def _groups(answers: Answers, attribute: Column, tables: Tables, how: Resampling) -> list[GroupFidelity]:
    """Accuracy by group."""
    from fairlearn.metrics import MetricFrame, count
    from sklearn.metrics import accuracy_score

    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "n": count},
        y_true=answers.target,
        y_pred=answers.predictions,
        sensitive_features=answers.groups,
    )
    rates = _rates("accuracy", tables, 0)
    found = []
    for group, row in frame.by_group.iterrows():
        own, z = answers.groups == group, int(group)
        right = [
            rows[own] == answers.target[own] for rows in (answers.predictions, answers.original) if rows is not None
        ]
        figures = [Figure(float(r.mean()), accuracy_interval(r, *tools(how))) for r in right]
        one = GroupFidelity(attribute.classes[z], int(row["n"]), bool(row["n"] < SMALL), figures[0])
        if answers.original is not None:
            moved = rates[0][:, z] - rates[1][:, z]
            change = Figure(figures[0].value - figures[1].value, _interval(moved, how))
            one = replace(one, original=figures[1], change=change)
        found.append(one)
    return found


def _difference(
    metric: str, answers: Answers, attribute: Column, target: Column, tables: Tables, how: Resampling
) -> Difference | None:
    """The largest difference between groups by one metric, in the worst class; None if it can't be told."""
    classes = [1] if target.n_classes == 2 or metric == "accuracy" else list(range(target.n_classes))
    kept = {c: found for c in classes if (found := _comparable(metric, answers, attribute.n_classes, c)).sum() > 1}
    if not kept:
        return None
    given = [rows for rows in (answers.predictions, answers.original) if rows is not None]
    points = [{c: _fairlearn(metric, answers.target, rows, answers.groups, c, kept[c]) for c in kept} for rows in given]
    draws = [_widest(metric, table, kept) for table in tables]
    values = [Figure(max(point.values()), _interval(draw, how)) for point, draw in zip(points, draws, strict=True)]
    before = values[1] if len(values) > 1 else None
    worst = max(points[0], key=lambda c: points[0][c])
    return Difference(
        metric=metric,
        value=values[0],
        original=before,
        change=None if before is None else Figure(values[0].value - before.value, _interval(draws[0] - draws[1], how)),
        target_class=None if metric == "accuracy" else target.classes[worst],
        groups=tuple(attribute.classes[z] for z in np.flatnonzero(kept[worst])),
    )


def _comparable(metric: str, answers: Answers, n_groups: int, c: int) -> Bool[np.ndarray, " G"]:
    """Which groups have enough people behind each of their rates."""
    sizes = [np.bincount(answers.groups, minlength=n_groups)]
    if metric == "equalized_odds":
        sizes += [np.bincount(answers.groups[rows], minlength=n_groups) for rows in _positive(answers.target, c)]
    return np.stack(sizes).min(0) >= SMALL


def _positive(target: Int[np.ndarray, " n"], c: int) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    return target == c, target != c


def _fairlearn(
    metric: str,
    target: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    c: int,
    kept: Bool[np.ndarray, " G"],
) -> float:
    """The difference between the groups kept, by fairlearn; class c against the rest."""
    from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference
    from sklearn.metrics import accuracy_score

    rows = kept[groups]
    target, predictions, groups = target[rows], predictions[rows], groups[rows]
    if metric == "accuracy":
        frame = MetricFrame(metrics=accuracy_score, y_true=target, y_pred=predictions, sensitive_features=groups)
        return float(frame.difference())
    function = demographic_parity_difference if metric == "demographic_parity" else equalized_odds_difference
    yes, answered = (target == c).astype(int), (predictions == c).astype(int)
    return float(function(yes, answered, sensitive_features=groups))


def _rates(metric: str, tables: Float[np.ndarray, "*R G Y Y"], c: int) -> Float[np.ndarray, "*R G"]:
    """One rate of each group in each resample, class c against the rest; NaN where a group has nobody for it."""
    with np.errstate(invalid="ignore"):
        if metric == "accuracy":
            return np.trace(tables, axis1=-2, axis2=-1) / tables.sum((-2, -1))
        if metric == "selection":
            return tables[..., c].sum(-1) / tables.sum((-2, -1))
        if metric == "true_positive":
            return tables[..., c, c] / tables[..., c, :].sum(-1)
        others = np.delete(tables, c, axis=-2)
        return others[..., c].sum(-1) / others.sum((-2, -1))


RATES = {
    "accuracy": ("accuracy",),
    "demographic_parity": ("selection",),
    "equalized_odds": ("true_positive", "false_positive"),
}


def _widest(
    metric: str, table: Float[np.ndarray, "R G Y Y"], kept: dict[int, Bool[np.ndarray, " G"]]
) -> Float[np.ndarray, " R"]:
    """The largest difference in each resample, over rates and classes."""
    found = []
    for c, groups in kept.items():
        for rate in RATES[metric]:
            values = _rates(rate, table, c)[:, groups]
            found.append(np.nan_to_num(values, nan=-np.inf).max(1) - np.nan_to_num(values, nan=np.inf).min(1))
    return np.stack(found).max(0)


def _interval(draws: Float[np.ndarray, " R"], how: Resampling) -> tuple[float, float]:
    """Percentiles of the resamples in which the figure can be told."""
    return percentiles(draws[np.isfinite(draws)], how.confidence)
