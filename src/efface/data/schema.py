"""The schema of a data set: its columns, their classes and counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

SPLITS = ("train", "validation", "test")
MISSING = -1
"""Label of an image whose value is unknown."""


@dataclass(frozen=True)
class Column:
    """A label column.

    Attributes:
        name: Column name in the source.
        classes: Class names, in the order of their indices.
        counts: Images per class in each split, ``{split: (count, …)}``.
        missing: Images without a value in each split.
    """

    name: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @classmethod
    def of(
        cls, name: str, classes: tuple[str, ...], labels: Int[np.ndarray, " N"], splits: dict[str, np.ndarray]
    ) -> Column:
        """Count the classes of ``labels`` in each split."""
        counts, missing = {}, {}
        for split, indices in splits.items():
            values = labels[indices]
            counts[split] = tuple(int(n) for n in np.bincount(values[values >= 0], minlength=len(classes)))
            missing[split] = int((values < 0).sum())
        return cls(name, classes, counts, missing)


@dataclass(frozen=True)
class Schema:
    """What the columns of a data set are: one target, the attributes to unlearn, and all others.

    Others are kept: selectivity probes ask whether they survive.

    Attributes:
        target: The main task.
        attributes: To unlearn.
        others: All other columns.
        preserved: Those among the others that training reads, so that they stay.
    """

    target: Column
    attributes: tuple[Column, ...]
    others: tuple[Column, ...] = ()
    preserved: tuple[Column, ...] = ()

    @property
    def columns(self) -> dict[str, Column]:
        """All columns by name."""
        return {column.name: column for column in (self.target, *self.attributes, *self.others)}

    def to_dict(self) -> dict[str, object]:
        """Return plain dictionaries, for JSON."""

        def plain(column: Column) -> dict[str, object]:
            return {
                "name": column.name,
                "classes": list(column.classes),
                "counts": {split: list(counts) for split, counts in column.counts.items()},
                "missing": column.missing,
            }

        return {
            "target": plain(self.target),
            "attributes": [plain(column) for column in self.attributes],
            "others": [plain(column) for column in self.others],
            "preserved": [column.name for column in self.preserved],
        }
