"""Splits: the source's own, what it lacks taken out of train, and exact duplicates kept off the test split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Int8, UInt64

from efface.data.schema import SPLITS
from efface.errors import DataError, expected

Splits = dict[str, Int[np.ndarray, " _"]]


def take_out(
    rows: Int[np.ndarray, " n"], strata: Int[np.ndarray, "n k"], fraction: float, generator: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Draw ``round(fraction · n)`` rows so that each stratum gives its share, within one row.

    A systematic sample: rows are shuffled, sorted by stratum, and every (1/fraction)-th is taken from a random start.

    Args:
        rows: Row indices.
        strata: Labels of each row; equal lines are one stratum.
        fraction: Share to take, in [0, 1).
        generator: Source of the draw.

    Example:
        >>> labels = np.repeat([[0], [1]], [90, 10], axis=0)
        >>> taken = take_out(np.arange(100), labels, 0.1, np.random.default_rng(0))
        >>> (taken < 90).sum(), (taken >= 90).sum()
        (np.int64(9), np.int64(1))
    """
    shuffled = generator.permutation(len(rows))
    order = shuffled[np.lexsort(strata[shuffled].T[::-1])]
    count = round(fraction * len(rows))
    places = ((np.arange(count) + generator.random()) * len(rows) / max(count, 1)).astype(np.int64)
    return np.sort(rows[order[places]])


def make_splits(
    split: Int8[np.ndarray, " N"],
    usable: Bool[np.ndarray, " N"],
    strata: Int[np.ndarray, "N k"],
    fractions: Mapping[str, float],
    seed: int,
) -> Splits:
    """Return the rows of each split; a missing validation or test split is taken out of train.

    Args:
        split: Index into SPLITS per row, -1 for none.
        usable: Rows that may be used at all.
        strata: Labels for the stratified draw.
        fractions: Shares of the source's train rows, for ``validation`` and ``test``.
        seed: Of the draw.

    Raises:
        DataError: Nothing would be left to train on.
    """
    splits = {name: np.flatnonzero(usable & (split == i)) for i, name in enumerate(SPLITS)}
    lacking = [name for name in ("test", "validation") if not len(splits[name])]
    total = sum(fractions[name] for name in lacking)
    if total >= 1:
        names = " + ".join(f"data.{name}_fraction" for name in lacking)
        raise DataError(expected(names, "less than 1 together, so that train keeps rows", total))
    generator = np.random.default_rng(seed)
    n = len(splits["train"])
    for name in lacking:
        train = splits["train"]
        # Fractions are shares of the original train rows, whatever was taken before.
        share = fractions[name] * n / max(len(train), 1)
        splits[name] = take_out(train, strata[train], share, generator)
        splits["train"] = np.setdiff1d(train, splits[name], assume_unique=True)
    return splits


def without_duplicates(splits: Splits, hashes: UInt64[np.ndarray, " N"]) -> tuple[Splits, list[str]]:
    """Drop rows of train seen in validation or test, and rows of validation seen in test.

    The later split is the one that must stay as it is: published test splits remain comparable.

    Returns:
        The splits, and a counted remark for each that lost rows.
    """
    result, remarks = dict(splits), []
    for i, name in enumerate(SPLITS[:-1]):
        later = np.concatenate([splits[other] for other in SPLITS[i + 1 :]])
        double = np.isin(hashes[splits[name]], hashes[later])
        if double.any():
            result[name] = splits[name][~double]
            where = " or ".join(SPLITS[i + 1 :])
            remarks.append(
                f"{int(double.sum())} images of {name} occur pixel by pixel in {where}; dropped from {name}."
            )
    return result, remarks
