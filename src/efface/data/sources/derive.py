"""Columns of classes made from another one, of classes or of numbers, for sources that lack the one a setting names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

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
        derive: Definitions by the new columns' names. With ``values``, class 1 are the rows whose class in ``of`` is
            among them, class 0 all other rows with a class. With ``bins`` numbers are cut at their quantiles over all
            rows, with ``edges`` where these say; a number on an edge goes up. Missing stays missing.
        problems: Notes what is wrong, for a caller with more checks to come; None raises here.

    Raises:
        DataError: An unknown column or class name, all classes or one name for both classes; all problems at once.
    """
    found = Problems(DataError) if problems is None else problems
    labels, classes, cut = dict(store.labels), dict(store.classes), dict(store.cut)
    for name, column in derive.items():
        if name in store.labels or name in store.refused:
            continue
        wrong = _what_is_wrong(store, name, column)
        for message in wrong:
            found.add(message)
        if not wrong:
            labels[name], classes[name] = _made(store, column)
            if column.values is None and (numbers := numbers_of(store, column.of)) is not None:
                cut[name] = numbers
    if problems is None:
        found.raise_if_any()
    return replace(store, labels=labels, classes=classes, cut=cut)


def numbers_of(store: Store, name: str) -> Float64[np.ndarray, " N"] | None:
    """Return a column's finite numbers, NaN where missing; None if it holds none. Classes may be named by numbers."""
    if name in store.numbers:
        return store.numbers[name]
    try:
        values = np.array([*map(float, store.classes.get(name, ("",))), np.nan])  # the last is where -1 points to
    except ValueError:
        return None
    numbers = values[store.labels[name]]
    return None if np.isinf(numbers).any() or np.isnan(numbers).all() else numbers


def _made(store: Store, column: DerivedColumn) -> tuple[Int64[np.ndarray, " N"], tuple[str, ...]]:
    """Return ``[N]`` class indices, -1 where missing, and the names of the classes."""
    if column.values is not None:
        codes = store.labels[column.of]
        chosen = [index for index, name in enumerate(store.classes[column.of]) if name in column.values]
        made = np.where(codes == MISSING, MISSING, np.isin(codes, chosen)).astype(np.int64)
        return made, column.names or ("no", "yes")
    numbers = numbers_of(store, column.of)
    assert numbers is not None  # checked before
    edges = _edges(numbers, column)
    made = np.where(np.isnan(numbers), MISSING, np.searchsorted(edges, numbers, side="right")).astype(np.int64)
    return made, column.names or (_between(edges) if column.edges else _spans(numbers, made))


def _edges(numbers: Float64[np.ndarray, " N"], column: DerivedColumn) -> Float64[np.ndarray, " e"]:
    """Return where numbers are cut, rising; where many are equal there are fewer quantiles than asked for."""
    if column.edges is not None:
        return np.array(column.edges)
    known = numbers[~np.isnan(numbers)]
    shares = np.arange(1, column.bins) / (column.bins or 1)
    # Values that occur, so that no class is empty.
    cuts = np.unique(np.quantile(known, shares, method="higher"))
    above = known[known > known.min()]
    return cuts[cuts > known.min()] if cuts[-1] > known.min() or not len(above) else above.min(keepdims=True)


def _between(edges: Float64[np.ndarray, " e"]) -> tuple[str, ...]:
    """Name classes by the edges that were given.

    Example:
        >>> _between(np.array([18.0, 65.0]))
        ('below 18', '18 to 65', 'from 65')
    """
    told = _told(edges.tolist(), 12)
    between = (f"{told[low]} to {told[high]}" for low, high in pairwise(edges.tolist()))
    return f"below {told[float(edges[0])]}", *between, f"from {told[float(edges[-1])]}"


def _spans(numbers: Float64[np.ndarray, " N"], codes: Int64[np.ndarray, " N"]) -> tuple[str, ...]:
    """Name classes by the least and greatest number in each, with as few digits as tell them apart.

    Example:
        >>> _spans(np.array([1.0, 2.25, 2.5, 4.0]), np.array([0, 0, 1, 1]))
        ('1–2.2', '2.5–4')
    """
    ends = [(float(one.min()), float(one.max())) for one in (numbers[codes == k] for k in range(codes.max() + 1))]
    told = _told([end for pair in ends for end in pair], 2)
    return tuple(told[low] if low == high else f"{told[low]}–{told[high]}" for low, high in ends)


def _told(numbers: Sequence[float], digits: int) -> dict[float, str]:
    """Return numbers as text, with at least so many digits and as many as tell them apart."""
    told: dict[float, str] = {}
    for enough in range(digits, 18):
        told = {one: np.format_float_positional(one, enough, fractional=False, trim="-") for one in numbers}
        if len(set(told.values())) == len(told):
            break
    return told


def _what_is_wrong(store: Store, name: str, column: DerivedColumn) -> list[str]:
    """Return every problem of one definition."""
    where = f"data.derive.{name}"
    wrong = []
    if column.names is not None and len(set(column.names)) < len(column.names):
        wanted = "two" if column.values else str(len(column.names))
        wrong.append(expected(f"{where}.names", f"{wanted} different class names", column.names))
    if column.values is None:
        return wrong + _what_cannot_be_cut(store, where, column)
    if column.of not in store.labels:
        # The reason completes "Column 'x' …"; see NotClassesError.
        reason = store.refused.get(column.of)
        hint = f"That column {reason}" if reason else did_you_mean(column.of, store.labels)
        return [*wrong, expected(f"{where}.of", "a column with labels", column.of, hint)]
    classes = store.classes[column.of]
    values = column.values
    unknown = [value for value in values if value not in classes]
    wanted = f"classes of {column.of!r}"
    wrong += [expected(f"{where}.values", wanted, value, did_you_mean(value, classes)) for value in unknown]
    if set(classes) <= set(values):
        wrong.append(expected(f"{where}.values", f"some but not all {wanted}", values))
    return wrong


def _what_cannot_be_cut(store: Store, where: str, column: DerivedColumn) -> list[str]:
    """Return why numbers can't be cut as asked."""
    if column.of not in store.numbers and column.of not in store.labels:
        reason, known = store.refused.get(column.of), [*store.numbers, *store.labels]
        hint = f"That column {reason}" if reason else did_you_mean(column.of, known)
        return [expected(f"{where}.of", "a column of numbers", column.of, hint)]
    numbers = numbers_of(store, column.of)
    if numbers is None:
        hint = f"Its classes: {', '.join(store.classes[column.of][:5])}."
        return [expected(f"{where}.of", "a column of numbers", column.of, hint)]
    known = numbers[~np.isnan(numbers)]
    edges = _edges(numbers, column)
    if column.bins is not None:
        found = len(edges) + 1
        if found < 2:
            return [f"`{where}.bins`: the numbers of {column.of!r} are too much alike to be cut; name `edges`."]
        if column.names is not None and len(column.names) != found:
            advice = "Many are equal: leave out `names`, or name `edges`."
            return [expected(f"{where}.names", f"{found} names, for {found} classes come out", column.names, advice)]
    elif not known.min() < edges[-1] <= known.max() or edges[0] <= known.min():
        inside = f"edges above {known.min():.12g} and up to {known.max():.12g}, where the numbers lie"
        return [expected(f"{where}.edges", inside, column.edges)]
    return []
