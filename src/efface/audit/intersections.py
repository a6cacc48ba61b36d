"""Intersections: the product of two attributes, attacked as one.

Two attributes may each be at their floor while their product is not (h = z1 XOR z2 tells neither, and a quarter of the
product). The product is a column like any other: the audit of an attribute takes it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int

from efface.audit.features import FeatureSet
from efface.audit.floors import Floors, entropy, floors, joint_table
from efface.audit.probe import with_labels
from efface.data.schema import MISSING, Column, Schema
from efface.errors import AuditError, Problems, expected

LEAST = 30
"""People that a joint class needs in every split."""
MOST_CLASSES = 24
"""Most classes of a product that pairs are suggested for."""
TIMES, AND = " × ", " · "

SplitLabels = Mapping[str, Int[np.ndarray, " n"]]


@dataclass(frozen=True)
class Intersection:
    """The product of two attributes.

    Attributes:
        column: Named ``first × second``, with the joint classes that are kept.
        labels: Per split; -1 where an attribute is missing, or the joint class has too few people.
        parts: The two attributes.
        left_out: Joint classes with too few people, and how many they are in all splits.
    """

    column: Column
    labels: SplitLabels
    parts: tuple[Column, Column]
    left_out: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.column.name,
            "parts": [part.name for part in self.parts],
            "classes": list(self.column.classes),
            "n": {split: int((codes >= 0).sum()) for split, codes in self.labels.items()},
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True)
class ProductFloors:
    """What is guessed of a product without the features; accuracies as fractions.

    Attributes:
        product: Chance, majority and label floor of the product.
        given: For one who knows y and one of the two attributes, by the attribute's name.
        interaction_bits: I(first; second) in bits: how much the two tell of each other, features aside.
    """

    product: Floors
    given: Mapping[str, float]
    interaction_bits: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        product = {name: getattr(self.product, name) for name in ("chance", "majority", "label")}
        return {**product, "given": dict(self.given), "interaction_bits": self.interaction_bits}


def intersect(
    first: Column, second: Column, labels: Mapping[str, Mapping[str, Int[np.ndarray, " n"]]], least: int = LEAST
) -> Intersection:
    """Return the product of two attributes.

    Args:
        first: An attribute.
        second: Another.
        labels: Per split and column, as in a ``FeatureSet``.
        least: People that a joint class needs in each split; others are left out.

    Raises:
        AuditError: The two are one, a column has no labels, or fewer than two joint classes have enough people.

    Example:
        >>> a, b = np.arange(400) % 2, np.arange(400) // 2 % 2
        >>> pair = Column("a", ("x", "y")), Column("b", ("u", "v"))
        >>> intersect(*pair, {"train": {"a": a, "b": b}}).column.classes
        ('x · u', 'x · v', 'y · u', 'y · v')
    """
    problems = Problems(AuditError)
    if first.name == second.name:
        problems.add(expected("second", "another attribute than the first", second.name))
    for name in dict.fromkeys((first.name, second.name)):
        missing = [split for split, columns in labels.items() if name not in columns]
        if missing:
            problems.add(f"No labels of {name!r} in {', '.join(missing)}: its intersections can't be told.")
    problems.raise_if_any()
    codes = {split: _product(columns[first.name], columns[second.name], second) for split, columns in labels.items()}
    size = first.n_classes * second.n_classes
    counts = np.stack([np.bincount(values[values >= 0], minlength=size) for values in codes.values()])
    kept = counts.min(0) >= least
    if kept.sum() < 2:
        least_text = f"Fewer than two joint classes of {first.name!r} and {second.name!r} have {least} people"
        raise AuditError(f"{least_text} in every split: the intersection can't be audited.")
    names = [AND.join((one, other)) for one in first.classes for other in second.classes]
    place = np.append(np.where(kept, np.cumsum(kept) - 1, MISSING), MISSING).astype(np.int64)
    column = Column(f"{first.name}{TIMES}{second.name}", tuple(np.array(names)[kept].tolist()))
    few = {names[cell]: int(counts[:, cell].sum()) for cell in np.flatnonzero(~kept & (counts.sum(0) > 0))}
    return Intersection(column, {split: place[values] for split, values in codes.items()}, (first, second), few)


def with_intersection(features: FeatureSet, intersection: Intersection) -> FeatureSet:
    """Return the features with the product among their labels, ready for the audit of an attribute."""
    return with_labels(features, intersection.column.name, intersection.labels)


def product_floors(
    intersection: Intersection, labels: Mapping[str, Int[np.ndarray, " n"]], target: str, split: str = "test"
) -> ProductFloors:
    """Return the floors of a product, on the people of a split whose product is known.

    An attacker who reads one attribute from elsewhere and knows y reaches ``given``: what is above it was read of both.

    Args:
        intersection: The product.
        labels: Of that split, by column.
        target: Column of the main task.
        split: The people.

    Example:
        >>> a, b = np.arange(400) % 2, np.arange(400) // 2 % 2
        >>> labels = {"a": a, "b": b, "y": np.zeros_like(a)}
        >>> product = intersect(Column("a", ("x", "y")), Column("b", ("u", "v")), {"test": labels})
        >>> found = product_floors(product, labels, "y")
        >>> found.product.label, found.given, found.interaction_bits
        (0.25, {'a': 0.5, 'b': 0.5}, 0.0)
    """
    codes = intersection.labels[split]
    known = codes >= 0
    z, y = codes[known], labels[target][known]
    parts = [labels[part.name][known] for part in intersection.parts]
    given = {}
    for part, values in zip(intersection.parts, parts, strict=True):
        both = (y + 1) * part.n_classes + values
        given[part.name] = floors(both, z, intersection.column.n_classes).label
    joint = joint_table(parts[0], parts[1], intersection.parts[1].n_classes)
    shared = entropy(joint) + entropy(joint.T) - entropy(joint.reshape(1, -1))
    return ProductFloors(floors(y, z, intersection.column.n_classes), given, round(max(shared, 0.0), 9) + 0.0)


def suggested_pairs(schema: Schema, most: int = 3) -> list[tuple[Column, Column]]:
    """Return pairs worth attacking: of attributes to unlearn, then of one with another column, smallest products first.

    Pairs of more than 24 joint classes are left out.

    Args:
        schema: Of the data set.
        most: At most so many pairs.

    Example:
        >>> z, other = Column("z", ("a", "b")), Column("hat", ("no", "yes"))
        >>> schema = Schema(Column("y", ("n", "p")), (z,), (other, Column("age", tuple("abcdefghijklm"))))
        >>> [(one.name, two.name) for one, two in suggested_pairs(schema)]
        [('z', 'hat')]
    """

    def fitting(pairs: Sequence[tuple[Column, Column]]) -> list[tuple[Column, Column]]:
        sized = [(one.n_classes * two.n_classes, one, two) for one, two in pairs]
        return [(one, two) for size, one, two in sorted(sized, key=lambda row: row[0]) if size <= MOST_CLASSES]

    own = fitting(list(combinations(schema.attributes, 2)))
    mixed = fitting([(one, two) for one in schema.attributes for two in schema.others])
    return [*own, *mixed][:most]


def _product(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], column: Column) -> Int[np.ndarray, " n"]:
    """Joint class indices, second fastest; -1 where either is missing."""
    return np.where((first >= 0) & (second >= 0), first * column.n_classes + second, MISSING)
