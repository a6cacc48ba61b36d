"""Two-class columns made from the classes of another column, for sources that lack the one a setting names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from efface.config import DerivedColumn
from efface.data.schema import MISSING
from efface.data.store import Store
from efface.errors import DataError, Problems, did_you_mean, expected


def with_derived(store: Store, derive: Mapping[str, DerivedColumn], problems: Problems | None = None) -> Store:
    """Return the store with the derived columns that its source does not have itself.

    Only labels are added: the decoded images and their cache don't know of them. A column of the source wins over a
    derived one of its name, whose definition is then not read; this way a setting fits copies of a data set with and
    without that column.

    Args:
        store: Decoded source.
        derive: Definitions by the new columns' names. Class 1 are the rows whose class in ``of`` is among ``values``,
            class 0 all other rows with a class; missing stays missing.
        problems: Notes what is wrong, for a caller with more checks to come; None raises here.

    Raises:
        DataError: An unknown column or class name, all classes or one name for both classes; all problems at once.
    """
    found = Problems(DataError) if problems is None else problems
    labels, classes = dict(store.labels), dict(store.classes)
    for name, column in derive.items():
        if name in store.labels or name in store.refused:
            continue
        wrong = _what_is_wrong(store, name, column)
        for message in wrong:
            found.add(message)
        if not wrong:
            labels[name] = _codes(store.labels[column.of], store.classes[column.of], column)
            classes[name] = column.names
    if problems is None:
        found.raise_if_any()
    return replace(store, labels=labels, classes=classes)


def _codes(codes: np.ndarray, classes: tuple[str, ...], column: DerivedColumn) -> np.ndarray:
    """Return ``[N]`` int64: 1 for the chosen classes, 0 for the others, -1 where missing."""
    chosen = [index for index, name in enumerate(classes) if name in column.values]
    return np.where(codes == MISSING, MISSING, np.isin(codes, chosen)).astype(np.int64)


def _what_is_wrong(store: Store, name: str, column: DerivedColumn) -> list[str]:
    """Return every problem of one definition."""
    where = f"data.derive.{name}"
    wrong = []
    if column.names[0] == column.names[1]:
        wrong.append(expected(f"{where}.names", "two different class names", column.names))
    if column.of not in store.labels:
        # The reason completes "Column 'x' …"; see NotClassesError.
        reason = store.refused.get(column.of)
        hint = f"That column {reason}" if reason else did_you_mean(column.of, store.labels)
        return [*wrong, expected(f"{where}.of", "a column with labels", column.of, hint)]
    classes = store.classes[column.of]
    unknown = [value for value in column.values if value not in classes]
    wanted = f"classes of {column.of!r}"
    wrong += [expected(f"{where}.values", wanted, value, did_you_mean(value, classes)) for value in unknown]
    if set(classes) <= set(column.values):
        wrong.append(expected(f"{where}.values", f"some but not all {wanted}", column.values))
    return wrong
