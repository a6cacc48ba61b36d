"""Label columns to class indices: which columns are classes, and what their classes are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int

from efface.data.schema import MISSING
from efface.data.sources.base import RawLabels

MOST_CLASSES = 64
"""Columns without class names become classes up to so many distinct values."""
SPLIT_COLUMNS = frozenset({"fold", "partition", "split"})


@dataclass(frozen=True)
class Classes:
    """A column as classes: ``codes[i]`` indexes ``names``, -1 where the value is missing."""

    codes: Int[np.ndarray, " N"]
    names: tuple[str, ...]


class NotClassesError(Exception):
    """A column can't be read as classes; the message completes "Column 'x' …"."""


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key under which numbers inside a text count as numbers.

    Example:
        >>> sorted(["10-19", "more than 70", "0-2", "3-9"], key=natural_key)
        ['0-2', '3-9', '10-19', 'more than 70']
    """
    parts = re.split(r"(\d+)", text)
    # Words and numbers alternate, so that a word is never compared with a number; the text breaks ties (1, 01).
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def encode_labels(labels: RawLabels) -> tuple[dict[str, Classes], dict[str, str]]:
    """Return the columns that are classes, and why each other column is not.

    Rules: named classes keep their names; booleans, whole numbers and texts with 2 to 64 distinct values become
    classes in natural order; null, NaN, empty text and -1 are missing, but a column of -1 and 1 only (as in CelebA's
    files) is read as 0 and 1. Columns of splits, identifiers and decimal numbers are no classes.
    """
    found: dict[str, Classes] = {}
    refused: dict[str, str] = {}
    for name in labels.table.column_names:
        try:
            found[name] = encode_column(name, labels.table.column(name), labels.names.get(name))
        except NotClassesError as reason:
            refused[name] = str(reason)
    return found, refused


def read_numbers(labels: RawLabels, names: Iterable[str]) -> dict[str, Float64[np.ndarray, " N"]]:
    """Return those of the named columns that hold finite numbers; NaN where a value is missing, as is a whole -1.

    Example:
        >>> read_numbers(RawLabels(pa.table({"a": [0.5, None], "b": ["x", "y"]}), {}, np.zeros(2, np.int8)), "ab")
        {'a': array([0.5, nan])}
    """
    found = {}
    for name in names:
        column = labels.table.column(name)
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if name.lower() in SPLIT_COLUMNS or name in labels.names or not numeric:
            continue
        values = np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(), np.float64)
        if np.isinf(values).any():
            continue
        known = values[~np.isnan(values)]
        if (known == np.round(known)).all():  # whole floats too, since a missing value makes pandas write floats
            values = np.where(values == MISSING, np.nan, values)
        if not np.isnan(values).all():
            found[name] = values
    return found


def encode_column(name: str, column: pa.ChunkedArray, names: tuple[str, ...] | None = None) -> Classes:
    """Return a column as classes.

    Args:
        name: Column name.
        column: Values.
        names: Class names that the source gives; values then index them.

    Raises:
        NotClassesError: The column is not one of classes.
    """
    if name.lower() in SPLIT_COLUMNS:
        raise NotClassesError("names a split, not classes.")
    if pa.types.is_dictionary(column.type):
        if isinstance(column.type.value_type, pa.BaseExtensionType):  # such as the intervals of pandas.cut
            raise NotClassesError(f"holds {column.type.value_type}, not classes: turn it into text (astype(str)).")
        column = column.cast(column.type.value_type)
    if names is not None:
        return _named(column, names)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _texts(column)
    if any(test(column.type) for test in (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)):
        return _numbers(column)
    raise NotClassesError(f"holds {column.type}, not classes.")


def _named(column: pa.ChunkedArray, names: tuple[str, ...]) -> Classes:
    """Values are indices into names already."""
    codes = pc.fill_null(column.cast(pa.int64()), MISSING).to_numpy()
    outside = int(((codes < MISSING) | (codes >= len(names))).sum())
    if outside:
        raise NotClassesError(f"has {outside} values outside its {len(names)} class names.")
    if len(names) < 2:
        raise NotClassesError("has one class only.")
    return Classes(codes.astype(np.int64), names)


def _texts(column: pa.ChunkedArray) -> Classes:
    """Distinct texts in natural order."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    order = sorted((text for text in distinct if text), key=natural_key)
    place = {text: i for i, text in enumerate(order)}
    # The extra last entry is where nulls, coded -1, land.
    table = np.asarray([*(place.get(text, MISSING) for text in distinct), MISSING], np.int64)
    codes = table[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)]
    _check_distinct(order, codes)
    return Classes(codes, tuple(order))


def _numbers(column: pa.ChunkedArray) -> Classes:
    """Distinct whole numbers, sorted; whole floats too, since a missing value makes pandas write floats."""
    if pa.types.is_floating(column.type):
        floats = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
        missing = np.isnan(floats)
        if not (floats[~missing] == np.round(floats[~missing])).all() or np.isinf(floats).any():
            raise NotClassesError("holds decimal numbers, not classes.")
        values = np.where(missing, 0, floats).astype(np.int64)
    else:
        missing = column.is_null().to_numpy()
        values = pc.fill_null(column.cast(pa.int64(), safe=False), 0).to_numpy()
    distinct = np.unique(values[~missing])
    if distinct.tolist() == [-1, 1]:
        values, distinct = (values > 0).astype(np.int64), np.array([0, 1])
    else:
        missing = missing | (values == MISSING)
        distinct = distinct[distinct != MISSING]
    codes = np.where(missing, MISSING, np.searchsorted(distinct, values)).astype(np.int64)
    _check_distinct(distinct.tolist(), codes)
    return Classes(codes, tuple(str(value) for value in distinct))


def _check_distinct(distinct: list[str] | list[int], codes: Int[np.ndarray, " N"]) -> None:
    """Refuse columns without values, with one, and with too many."""
    present = int((codes != MISSING).sum())
    if not distinct:
        raise NotClassesError("has no values.")
    if len(distinct) == 1:
        raise NotClassesError(f"has one value only, {distinct[0]!r}; at least 2 classes are needed.")
    if len(distinct) > MOST_CLASSES:
        raise NotClassesError(f"has {len(distinct)} distinct values, more than {MOST_CLASSES}: not classes.")
    if len(distinct) == present > 2:
        raise NotClassesError("has another value in every row: an identifier, not classes.")
