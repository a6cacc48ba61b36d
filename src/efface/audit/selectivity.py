"""Selectivity: what became of the attributes that nobody asked to unlearn.

Each labelled column beside target and attributes is probed on the audited model and on the original, with the same
attackers and seeds. What survives is told as a share of the original's accuracy above the majority. Source: THEORY,
"What the numbers can be at best".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.floors import entropy, joint_table
from efface.audit.intervals import paired_interval
from efface.audit.probe import Probing, Reading, plain, read_many, tools, with_labels
from efface.audit.remembered import read_original
from efface.data.schema import MISSING, Column

MOST_CLASSES = 24
"""Columns of more classes are made coarser."""
BINS = 5
"""Groups of about equal size that numbers are cut into."""
FEWEST = 30
"""Training people that a class needs; rarer classes are one class together, ``other``."""

SplitLabels = Mapping[str, Int[np.ndarray, " n"]]


@dataclass(frozen=True)
class Survival:
    """What became of one column.

    Attributes:
        column: Its name.
        classes: As probed.
        n: People read.
        majority: Accuracy of always naming the most frequent class.
        accuracy: Of the probe on the audited model.
        original: Of the probe on the original.
        share: (accuracy − majority) / (original − majority): 1 = as readable as before, 0 = as the majority; None where
            the original is within noise of the majority. Not clipped: noise may carry it below 0 or above 1.
        raw_share: accuracy / original.
        overlap: Largest I(column; unlearned attribute) / H(column), 0 to 1: how much of the column an attribute tells,
            so that losing it was to be expected.
        attackers: Which attacker validation picked, on the audited model and on the original.
        note: How the column was made coarser, or None.
        preserved: Whether training kept it on request.
    """

    column: str
    classes: tuple[str, ...]
    n: int
    majority: float
    accuracy: Figure
    original: Figure
    share: Figure | None
    raw_share: Figure
    overlap: float
    attackers: tuple[str, str]
    note: str | None = None
    preserved: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return plain(self)


@dataclass(frozen=True)
class Selectivity:
    """What became of every column that was not asked for.

    Attributes:
        columns: Those probed.
        skipped: Why others were not, by name.
    """

    columns: tuple[Survival, ...]
    skipped: Mapping[str, str]

    @property
    def median_share(self) -> float | None:
        """Median share over the columns that have one and that training was not asked to keep, or None."""
        shares = [column.share.value for column in self.columns if column.share is not None and not column.preserved]
        return float(np.median(shares)) if shares else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        columns = [column.to_dict() for column in self.columns]
        return {"columns": columns, "median_share": self.median_share, "skipped": dict(self.skipped)}


def least_kept(audit: Mapping[str, Any]) -> float | None:
    """Return the least share of the columns kept on request, or None where none has one.

    Args:
        audit: Content of audit.json.

    Example:
        >>> columns = [{"preserved": True, "share": {"value": v}} for v in (1.1, 0.8)]
        >>> least_kept({"selectivity": {"columns": columns}})
        0.8
    """
    columns = (audit.get("selectivity") or {"columns": []})["columns"]
    shares = [column["share"]["value"] for column in columns if column["preserved"] and column["share"]]
    return min(shares, default=None)


def selectivity(
    features: FeatureSet,
    original: FeatureSet,
    columns: Sequence[Column],
    attributes: Sequence[Column],
    probing: Probing | None = None,
    preserved: Sequence[str] = (),
) -> Selectivity:
    """Probe every column on both models.

    Args:
        features: What the audited model releases; usually condensed (``probe.condense``).
        original: What the original releases of the same people.
        columns: Those not asked for: ``data.schema.others``.
        attributes: Those unlearned, for ``overlap``.
        preserved: Names of those that training kept on request.
        probing: Who probes, and whom; ``2 · len(columns) · probing.steps`` steps of its progress bar.
    """
    probing = probing or Probing()
    asked: list[tuple[Column, SplitLabels, str | None]] = []
    skipped = {}
    for column in columns:
        labels = {split: features.labels[split][column.name] for split in features.features}
        coarse, why = coarsened(column, labels, probing.split)
        if coarse is None:
            skipped[column.name] = why
            probing.tick(f"{column.name} is left out", 2 * probing.steps)
            continue
        asked.append((*coarse, why or None))
        features, original = (with_labels(one, column.name, coarse[1]) for one in (features, original))
    probed = [column for column, *_ in asked]
    readings = read_many(features, probed, probing), read_original(original, probed, probing)
    found = []
    for (column, codes, note), after, before in zip(asked, *readings, strict=True):
        told = overlap(features, codes[probing.split], attributes, probing.split, column.n_classes)
        kept = survival(after, before, column, told, probing, note)
        found.append(replace(kept, preserved=column.name in preserved))
    return Selectivity(tuple(found), skipped)


def survival(
    after: Reading, before: Reading, column: Column, overlap: float, probing: Probing, note: str | None = None
) -> Survival:
    """Compare two readings of the same people.

    Args:
        after: Of the audited model.
        before: Of the original.
        column: As probed.
        overlap: See ``Survival``.
        probing: Confidence and resamples.
        note: How the column was made coarser.
    """
    how, labels = probing.how, after.labels
    usual = labels == np.bincount(labels).argmax()
    right = np.stack([after.correct, before.correct, usual], 1).astype(float)
    _, then, majority = (float(value) for value in right.mean(0))

    def gain(means: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " R"]:
        return means[:, 1] - means[:, 2]

    def share(means: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " R"]:
        # Half a person is the least the original can know: keeps rare empty resamples finite.
        return (means[:, 0] - means[:, 2]) / np.maximum(gain(means), 0.5 / len(labels))

    def raw(means: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " R"]:
        return means[:, 0] / np.maximum(means[:, 1], 0.5 / len(labels))

    seen = then > majority and paired_interval(right, gain, *tools(how))[0] > 0
    point = right.mean(0)[None]
    return Survival(
        column=column.name,
        classes=column.classes,
        n=len(labels),
        majority=majority,
        accuracy=after.accuracy(how),
        original=before.accuracy(how),
        share=Figure(float(share(point)[0]), paired_interval(right, share, *tools(how))) if seen else None,
        raw_share=Figure(float(raw(point)[0]), paired_interval(right, raw, *tools(how))),
        overlap=overlap,
        attackers=(after.attacker, before.attacker),
        note=note,
    )


def overlap(
    features: FeatureSet,
    codes: Int[np.ndarray, " n"],
    attributes: Sequence[Column],
    split: str,
    n_classes: int,
) -> float:
    """Return the largest I(column; attribute) / H(column) over the attributes, exact on the labels of a split.

    Example:
        >>> from efface.audit.probe import FeatureSet
        >>> z = np.arange(100) % 2
        >>> overlap(FeatureSet({}, {"test": {"z": z}}, {}), 1 - z, [Column("z", ("a", "b"))], "test", 2)
        1.0
    """
    shares = [0.0]
    for column in attributes:
        labels = features.labels[split][column.name]
        known = (labels >= 0) & (codes >= 0)
        if known.any():
            joint = joint_table(labels[known], codes[known], n_classes)
            own, given = entropy(joint), entropy(joint.T) + entropy(joint) - entropy(joint.reshape(1, -1))
            shares.append(min(1.0, max(0.0, given / own)) if own > 0 else 0.0)
    return round(max(shares), 9)


def coarsened(
    column: Column, labels: SplitLabels, split: str = "test"
) -> tuple[tuple[Column, SplitLabels] | None, str]:
    """Return a column fit for probing, with its labels, and how it was made; or None and why it can't be probed.

    Columns of more than 24 classes whose names are numbers (ages, years) are cut into five groups of about equal size
    among the training people. Of other columns, classes of fewer than 30 training people become one class, ``other``.
    Left out are columns of which fewer than two classes remain, or of still more than 24.

    Args:
        column: As labelled.
        labels: Per split; ``train`` decides.
        split: The people that are to be read.

    Example:
        >>> ages = Column("age", tuple(str(age) for age in range(100)))
        >>> people = {split: np.arange(1000) % 100 for split in ("train", "test")}
        >>> coarsened(ages, people)[0][0].classes
        ('0–19', '20–39', '40–59', '60–79', '80–99')
    """
    note = ""
    if column.n_classes > MOST_CLASSES and (numbers := _numbers(column.classes)) is not None:
        column, labels = _binned(column, labels, numbers)
        note = f"numbers, cut into {column.n_classes} groups of about equal size"
    counts = _counts(labels["train"], column.n_classes)
    rare = (counts < FEWEST) & (counts > 0)
    if rare.sum() > 1 or column.n_classes > MOST_CLASSES:
        column, labels = _merged(column, labels, counts < FEWEST)
        note = f"{int(rare.sum())} classes of fewer than {FEWEST} training people are one class, other"
    present = int((_counts(labels["train"], column.n_classes) > 0).sum())
    if column.n_classes > MOST_CLASSES:
        return None, f"{column.n_classes} classes of at least {FEWEST} training people: too many to probe."
    if present < 2:
        return None, f"{present} class(es) among the training people; at least 2 are needed."
    for name in dict.fromkeys(("validation", split)):
        if name in labels and not (labels[name] >= 0).any():
            return None, f"Nobody in the {name} split has a label."
    return (column, labels), note


def _counts(labels: Int[np.ndarray, " n"], classes: int) -> Int[np.ndarray, " A"]:
    return np.bincount(labels[labels >= 0], minlength=classes)


def _numbers(names: Sequence[str]) -> Float[np.ndarray, " A"] | None:
    """Class names as numbers, or None."""
    try:
        return np.array([float(name) for name in names])
    except ValueError:
        return None


def _binned(
    column: Column, labels: SplitLabels, numbers: Float[np.ndarray, " A"]
) -> tuple[Column, dict[str, Int[np.ndarray, " n"]]]:
    """Cut numbers at quantiles of the training people."""
    known = numbers[labels["train"][labels["train"] >= 0]]
    edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="higher")) if len(known) else np.empty(0)
    group = np.searchsorted(edges, numbers, side="right")
    kept, place = np.unique(group, return_inverse=True)
    names = tuple(_range(numbers[group == g]) for g in kept)
    return Column(column.name, names), _mapped(labels, place.reshape(-1))


def _range(numbers: Float[np.ndarray, " K"]) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _merged(column: Column, labels: SplitLabels, rare: np.ndarray) -> tuple[Column, dict[str, Int[np.ndarray, " n"]]]:
    """Make one class, the last, of the rare ones."""
    place = np.where(rare, int((~rare).sum()), np.cumsum(~rare) - 1)
    names = [name for name, out in zip(column.classes, rare, strict=True) if not out]
    return Column(column.name, (*names, "other") if rare.any() else tuple(names)), _mapped(labels, place)


def _mapped(labels: SplitLabels, place: Int[np.ndarray, " A"]) -> dict[str, Int[np.ndarray, " n"]]:
    # The extra last entry is where missing labels, -1, land.
    table = np.append(place, MISSING).astype(np.int64)
    return {split: table[codes] for split, codes in labels.items()}
