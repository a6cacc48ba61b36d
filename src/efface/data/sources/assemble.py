"""From a decoded source to a data set: the chosen columns, the usable rows, the splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from efface.config import DerivedColumn
from efface.data.dataset import AttributeDataset, build_schema
from efface.data.schema import MISSING
from efface.data.sources.base import Source
from efface.data.sources.derive import with_derived
from efface.data.sources.splits import make_splits, without_duplicates
from efface.data.store import Store
from efface.errors import DataError, Problems, did_you_mean


def assemble(
    source: Source,
    store: Store,
    target: str,
    attributes: list[str],
    fractions: Mapping[str, float],
    seed: int,
    kind: str,
    derive: Mapping[str, DerivedColumn] | None = None,
) -> AttributeDataset:
    """Choose columns and splits of a decoded source.

    Args:
        source: Names the data set.
        store: Its decoded images and labels.
        target: Column of the main task; rows without it are dropped and counted.
        attributes: Columns to unlearn; the first one and the target make the strata of drawn splits.
        fractions: Shares of train for the splits ``validation`` and ``test``, where the source lacks them.
        seed: Of drawn splits.
        kind: ``fairface`` reads the published validation part as the test split.
        derive: Columns to make where the source lacks them.

    Raises:
        DataError: A column is unknown or not one of classes, or a split is empty or of one class.
    """
    derive = derive or {}
    problems = Problems(DataError)
    of_source, store = store.labels, with_derived(store, derive, problems)
    failed = set(derive) - set(store.labels) - set(store.refused)
    named = [name for name in dict.fromkeys((target, *attributes)) if name not in failed]
    _check_columns(store, target, named, problems)
    usable = np.ones(len(store.images), bool)
    usable[store.unreadable] = False
    labelled = store.labels[target] != MISSING
    warnings = list(store.warnings)
    unlabelled = int((usable & ~labelled).sum())
    if unlabelled:
        warnings.append(f"{unlabelled} images have no {target!r}, the target; dropped.")
    usable &= labelled
    split = store.split
    if kind == "fairface" and not (split == 2).any():
        # FairFace publishes two parts, and papers report on the one that it calls validation.
        split = np.where(split == 1, 2, split).astype(np.int8)
    strata = np.stack([store.labels[target], store.labels[attributes[0]]], axis=1)
    splits, remarks = without_duplicates(make_splits(split, usable, strata, fractions, seed), store.hashes)
    digest = hashlib.sha256(store.key.encode())
    for name, rows in splits.items():
        digest.update(name.encode() + rows.astype(np.int64).tobytes())
    for name in sorted(set(store.labels) - set(of_source)):
        digest.update(json.dumps([name, derive[name].model_dump()]).encode())
    return AttributeDataset(
        images=store.images,
        labels=store.labels,
        splits=splits,
        schema=build_schema(store.labels, store.classes, splits, target, attributes),
        name=source.name,
        fingerprint=digest.hexdigest()[:20],
        warnings=(*warnings, *remarks),
        numbers=store.cut,
    )


def _check_columns(store: Store, target: str, names: list[str], problems: Problems) -> None:
    """Tell of every named column that is unknown, or known but not one of classes, and of the problems so far."""
    for name in names:
        if name in store.refused:
            similar = [other for other in store.labels if other.startswith(f"{name}_")]
            hint = f" Use {similar[0]!r}." if similar else ""
            if name in store.numbers and np.nanmin(store.numbers[name]) < np.nanmax(store.numbers[name]):
                wish = "Or cut it" if similar else "Cut it into classes"
                hint += f" {wish} under another name: --set 'data.derive.{name}_group={{of: {name}, bins: 8}}'."
            problems.add(f"Column {name!r} {store.refused[name]}{hint}")
        elif name not in store.labels:
            problems.add(f"No column {name!r} with labels. {did_you_mean(name, store.labels)}")
        elif name == target and not (store.labels[name] != MISSING).any():
            problems.add(f"Every label of the target {name!r} is missing.")
    problems.raise_if_any()
