"""What every source offers: a key of its content, label columns with splits, and encoded images in row order."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int8

from efface.data.schema import SPLITS
from efface.errors import DataError, expected

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
"""Words that name a split in file names, folders and columns, with the index into SPLITS."""
NO_SPLIT = -1
"""Split index of a row that belongs to none; it is not used."""
CHUNK = 512
"""Images that are decoded at a time."""

Encoded = tuple[str, bytes | Path | None]
"""A name for messages, and an image file's bytes or path; None where the source has no image."""


@dataclass(frozen=True)
class RawLabels:
    """Label columns as the source has them.

    Attributes:
        table: ``N`` rows, all columns but the image.
        names: Class names of the columns that come with them.
        split: ``[N]`` index into SPLITS, -1 for rows of no split.
        warnings: Remarks for the report.
    """

    table: pa.Table
    names: Mapping[str, tuple[str, ...]]
    split: Int8[np.ndarray, " N"]
    warnings: tuple[str, ...] = field(default=())


class Source(ABC):
    """A data set at rest."""

    name: str
    """Used in reports and in the cache's folder names."""
    columns: tuple[str, ...]
    """Column names, without the image."""

    @abstractmethod
    def key(self) -> str:
        """Return a hash of the content, cheap enough to take at every start."""

    @abstractmethod
    def labels(self) -> RawLabels:
        """Read the label columns."""

    @abstractmethod
    def images(self) -> Iterator[list[Encoded]]:
        """Yield the encoded images in row order, up to CHUNK at a time."""


def split_of(*texts: str) -> int:
    """Return the split that a word of the first text names, else of the next, else -1.

    Example:
        >>> split_of("train-00000-of-00002.parquet"), split_of("0000.parquet", "valid"), split_of("data.parquet")
        (0, 1, -1)
    """
    for text in texts:
        for word in re.split(r"[^a-z]+", text.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return NO_SPLIT


def split_from_column(table: pa.Table, names: Mapping[str, tuple[str, ...]]) -> Int8[np.ndarray, " N"] | None:
    """Return the splits that a column ``split`` or ``partition`` names, None if there is no such column.

    Values may be words (``train``, ``val``, …) or 0, 1, 2 as in CelebA's partition file.

    Raises:
        DataError: A column ``split`` holds values of which none is known: whom the user held out would be trained on.
    """
    for column in sorted(table.column_names, key=lambda name: name.strip().lower() != "split"):
        if column.strip().lower() not in ("split", "partition"):
            continue
        words = dict(enumerate(names.get(column, SPLITS)))
        values = table.column(column).to_pylist()
        found = [SPLIT_NAMES.get(str(words.get(value, value)).strip().lower(), NO_SPLIT) for value in values]
        split = np.asarray(found, np.int8)
        if (split >= 0).any():
            return split
        strange = sorted({str(words.get(value, value)) for value in values if value is not None})
        if strange and column.strip().lower() == "split":
            hint = f"Known words: {', '.join(SPLIT_NAMES)}. Rename the column if it means something else."
            raise DataError(expected(f"column {column}", "names of splits", ", ".join(strange[:5]), hint))
    return None


def resolve_split(
    split: Int8[np.ndarray, " N"], table: pa.Table, names: Mapping[str, tuple[str, ...]]
) -> tuple[Int8[np.ndarray, " N"], tuple[str, ...]]:
    """Decide the splits: as files and folders name them, else as a column does, else all train.

    Returns:
        The splits, and a counted remark if rows belong to none.
    """
    if (split < 0).all():
        column = split_from_column(table, names)
        split = np.zeros_like(split) if column is None else column
    stray = int((split < 0).sum())
    remark = f"{stray} rows belong to no split (train, validation, test) and are not used."
    return split, (remark,) if stray else ()
