"""A decoded data set: uint8 images (memory-mapped), integer labels, splits and their schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from efface.data.schema import MISSING, SPLITS, Column, Schema
from efface.errors import ConfigError, DataError, Problems, did_you_mean, expected


@dataclass(frozen=True)
class AttributeDataset:
    """Images with a target label and attribute labels.

    Attributes:
        images: ``[N, C, H, W]`` uint8, 0 to 255; usually a memory map, read in place.
        labels: ``{column: [N] int64}`` class indices, -1 where a value is missing.
        splits: ``{"train" | "validation" | "test": [n] int64}`` disjoint row indices.
        schema: Target, attributes and other columns with classes and counts.
        name: What the data set is called in reports.
        fingerprint: Hash of content, size and splits; keys caches.
        warnings: Counted remarks of the reader (duplicates, dropped rows), for the report.
        numbers: ``{column: [N]}`` what columns were cut from whose classes are numbers, cut: finite, NaN where missing.
            Methods and figures that can take the number itself do.

    Raises:
        DataError: Numbers are of another length, no numbers, or infinite; all at once.
    """

    images: UInt8[np.ndarray, "N C H W"]
    labels: Mapping[str, Int[np.ndarray, " N"]]
    splits: Mapping[str, Int[np.ndarray, " n"]]
    schema: Schema
    name: str = "dataset"
    fingerprint: str = ""
    warnings: tuple[str, ...] = ()
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = Problems(DataError)
        for name, values in self.numbers.items():
            told, n, argument = np.asarray(values), len(self.images), f"numbers[{name!r}]"
            if told.shape != (n,):
                problems.add(expected(argument, f"of shape ({n},), one number per image", told.shape))
            elif told.dtype.kind not in "biuf":
                problems.add(expected(argument, "numbers, NaN where missing", str(told.dtype)))
            elif np.isinf(told).any():
                row = int(np.flatnonzero(np.isinf(told))[0])
                problems.add(expected(argument, "finite, NaN where missing", float(told[row]), f"First in row {row}."))
        problems.raise_if_any()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def target(self) -> Column:
        """The main task's column."""
        return self.schema.target

    @property
    def attributes(self) -> tuple[Column, ...]:
        """The columns to unlearn."""
        return self.schema.attributes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, c, h, w = self.images.shape
        return int(c), int(h), int(w)

    def rows(self, split: str) -> Int[np.ndarray, " n"]:
        """Return the row indices of a split."""
        if split not in self.splits:
            raise DataError(expected("split", "a split of the data set", split, did_you_mean(split, self.splits)))
        return self.splits[split]

    def split_labels(self, split: str, column: str) -> Int[np.ndarray, " n"]:
        """Return a column's labels in a split."""
        return self.labels[column][self.rows(split)]

    def split_numbers(self, split: str, column: str) -> Float[np.ndarray, " n"]:
        """Return the numbers behind a column in a split, NaN where missing."""
        return np.asarray(self.numbers[column], np.float64)[self.rows(split)]

    def preserving(self, names: Sequence[str]) -> AttributeDataset:
        """Return a copy whose batches carry these columns too, for a training that keeps them.

        Raises:
            ConfigError: A name is no other column, or is named twice, or the train split has less than two of its
                classes; all at once.
        """
        if not names:
            return self
        problems, others = Problems(ConfigError), {column.name: column for column in self.schema.others}
        taken = {self.target.name: "the target", **{c.name: "an attribute to unlearn" for c in self.attributes}}
        for name in dict.fromkeys(names):
            if name in taken:
                problems.add(f"`method.preserve` names {name!r}, which is {taken[name]}. Name other columns, or [].")
            elif name not in others:
                problems.add(f"`method.preserve` names {name!r}. {did_you_mean(name, others)}")
            elif sum(count > 0 for count in others[name].counts["train"]) < 2:
                problems.add(f"`method.preserve` names {name!r}, which has less than 2 classes in the train split.")
            if list(names).count(name) > 1:
                problems.add(f"`method.preserve` names {name!r} more than once.")
        problems.raise_if_any()
        return replace(self, schema=replace(self.schema, preserved=tuple(others[name] for name in names)))

    def limited(self, limit: int | None, seed: int = 0) -> AttributeDataset:
        """Return a copy with at most ``limit`` rows per split, drawn by seed and kept in order."""
        if limit is None:
            return self
        generator = np.random.default_rng(seed)
        splits = {
            name: np.sort(generator.permutation(rows)[:limit]) if len(rows) > limit else rows
            for name, rows in self.splits.items()
        }
        kept = self.schema
        names = [kept.target.name], [c.name for c in kept.attributes]
        schema = build_schema(
            self.labels, {n: c.classes for n, c in kept.columns.items()}, splits, names[0][0], names[1]
        )
        return replace(self, splits=splits, schema=schema, fingerprint=f"{self.fingerprint}-{limit}-{seed}")


def build_schema(
    labels: Mapping[str, np.ndarray],
    classes: Mapping[str, tuple[str, ...]],
    splits: Mapping[str, np.ndarray],
    target: str,
    attributes: list[str],
) -> Schema:
    """Check the named columns and count their classes; raise DataError with all problems at once."""
    problems = Problems(DataError)
    for name in (target, *attributes):
        if name not in labels:
            problems.add(f"No column {name!r} with labels. {did_you_mean(name, labels)}")
    if target in attributes:
        problems.add(f"Column {target!r} is both the target and an attribute to unlearn; name another target.")
    for name in sorted({a for a in attributes if attributes.count(a) > 1}):
        problems.add(f"Attribute {name!r} is named more than once.")
    problems.raise_if_any()
    columns = {name: Column.of(name, classes[name], labels[name], dict(splits)) for name in labels}
    for split in SPLITS:
        if not len(splits.get(split, ())):
            problems.add(f"The {split} split is empty. Give a source with more rows, or set `data.{split}_fraction`.")
    for name in (target, *attributes):
        role = "target" if name == target else "attribute"
        for split, counts in columns[name].counts.items():
            present = sum(count > 0 for count in counts)
            if present < 2 and len(splits[split]):
                problems.add(
                    f"The {role} {name!r} has {present} class(es) in the {split} split; at least 2 are needed."
                )
    if "train" in columns[target].missing and columns[target].missing["train"] == len(splits["train"]):
        problems.add(f"Every target label {target!r} of the train split is missing.")
    problems.raise_if_any()
    return Schema(
        target=columns[target],
        attributes=tuple(columns[name] for name in attributes),
        others=tuple(c for n, c in columns.items() if n != target and n not in attributes),
    )


__all__ = ["MISSING", "AttributeDataset", "build_schema"]
