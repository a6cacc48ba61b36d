"""The audit of plain embeddings: arrays made elsewhere, with labels; no encoder is at hand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Int8

from efface.audit.arrays import is_array, read_features, read_table
from efface.audit.attackers import Attacker
from efface.audit.conclude import Job, conclude, prepare
from efface.audit.features import FeatureSet, row_codes
from efface.audit.progress import bars
from efface.audit.result import AuditResult
from efface.audit.store import FeatureArray, stored_from_arrays
from efface.audit.subject import Subject, without_target
from efface.audit.threat import UNKNOWN, Threat
from efface.config import AuditConfig, EngineConfig
from efface.data.schema import MISSING, SPLITS, Column
from efface.data.sources.base import NO_SPLIT, RawLabels, resolve_split, split_from_column, split_of
from efface.data.sources.labels import encode_labels
from efface.data.sources.splits import make_splits
from efface.engine.devices import device_for
from efface.errors import DataError, Problems, did_you_mean, expected

OtherArray: TypeAlias = Float[np.ndarray, "n *E"]
"""Features of the same n people, of another shape maybe."""

FRACTIONS = {"validation": 0.1, "test": 0.3}
"""Shares of people for the splits that are drawn. No encoder is to be trained on the rest: attackers need fewer."""
LAYER = "embeddings"

Splits = Mapping[str, Int[np.ndarray, " _"]]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings with encoded labels, before anything is attacked.

    Attributes:
        values: ``[n, *D]``.
        original: ``[n, *E]`` the same people's before unlearning, or None.
        labels: Per column, class indices; -1 is missing.
        columns: By name, with counts per split.
        splits: Row numbers.
        given: Whether the splits were given rather than drawn.
        warnings: Counted remarks.
    """

    values: FeatureArray
    original: OtherArray | None
    labels: Mapping[str, Int[np.ndarray, " n"]]
    columns: Mapping[str, Column]
    splits: Splits
    given: bool
    warnings: tuple[str, ...] = ()


def audit_embeddings(
    features: Any,
    labels: Any = None,
    *,
    attributes: str | Sequence[str],
    target: str | None = None,
    original: Any = None,
    column: str | None = None,
    splits: Any = None,
    config: AuditConfig | None = None,
    attackers: Sequence[Attacker] | None = None,
    seed: int = 0,
    progress: bool = True,
    name: str = "embeddings",
) -> AuditResult:
    """Attack what embeddings reveal of attributes.

    The task's fidelity, and the answer that an attacker may use, are those of a linear probe fitted on the training
    people: there is no model to ask.

    Args:
        features: ``[n, D]`` (or tokens, or maps): an array, a table, ``.npy``, parquet, a Hugging Face data set.
        labels: Table, mapping of columns, parquet or CSV file with a row per embedding, in the same order; may have a
            column ``split`` (train, validation, test). None: the other columns of ``features``.
        attributes: Column or columns to attack.
        target: Column of the main task; None: there is none, and the label floor is the majority.
        original: The same people's embeddings before unlearning: the ceiling.
        column: Column of a table with the embeddings; None finds it.
        splits: Row numbers by split, or the name of each row's; None: the column ``split``, else drawn by seed,
            stratified on target and attributes.
        config: Who attacks, and how long; None: the standard suite.
        attackers: Attackers of your own, in place of those that ``config`` names.
        seed: Of splits, attackers and resamples.
        progress: Whether to show progress bars on a terminal.
        name: What the audit is called in the report.

    Raises:
        DataError: Embeddings or labels can't be read, don't belong together, or lack what was asked for; all at once.
        AuditError: As ``audit``.

    Example:
        >>> z = np.arange(600) % 2
        >>> h = np.random.default_rng(0).normal(size=(600, 4)) + z[:, None]
        >>> config = AuditConfig(attackers=("linear",), resamples=200, beyond=())
        >>> found = audit_embeddings(h, {"z": z}, attributes="z", config=config, progress=False)
        >>> found.attributes["z"]["verdict"]
        'leaks'
    """
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    config = config or AuditConfig(suite="standard")
    job = prepare(config, attackers, seed, name)
    found = load_embeddings(features, labels, names, target, original, column, splits, seed)
    return audit_loaded(job, found, names, target, progress)


def audit_loaded(
    job: Job, found: Embeddings, names: Sequence[str], target: str | None, progress: bool = True
) -> AuditResult:
    """Attack embeddings that ``load_embeddings`` has read; see ``audit_embeddings``."""
    job = replace(job, started=time.perf_counter(), device=device_for(EngineConfig()))
    subject = make_subject(found, names, target, job.config.split).with_probed_answers(job.seed)
    threat = Threat(LAYER, view="embeddings", trained_on=UNKNOWN)
    with bars(progress) as shown:
        job = replace(job, shown=shown)
        classes, people = [column.n_classes for column in subject.attributes], len(found.splits["train"])
        outputs = 0 if subject.target is None else subject.target.n_classes
        job = job.announce([subject.model.shape], people, classes, len(subject.sets), outputs)
        described = describe_data(found, names, target, job.name)
        return conclude(job, {LAYER: subject}, described, describe_model(found), threat)


def load_embeddings(
    features: Any,
    labels: Any,
    attributes: Sequence[str],
    target: str | None = None,
    original: Any = None,
    column: str | None = None,
    splits: Any = None,
    seed: int = 0,
) -> Embeddings:
    """Read embeddings and labels, and split them; see ``audit_embeddings``.

    Raises:
        DataError: All problems at once.
    """
    problems = Problems(DataError)
    values, table = problems.attempt(lambda: read_features(features, column)) or (None, None)
    before = None
    if original is not None:
        before = (problems.attempt(lambda: read_features(original, column, "original")) or (None,))[0]
    if column is not None and all(map(is_array, (features, features if original is None else original))):
        problems.add(expected("column", "left out: an array has no columns", column))
    if labels is not None:
        beside, table = table, problems.attempt(lambda: read_table(labels))
        table = _with_split(table, beside)
    elif values is not None and table is None:
        problems.add(expected("labels", "a table with a row per embedding", None))
    if values is not None and before is not None and values.shape[0] != before.shape[0]:
        problems.add(expected("original", f"embeddings of the same {len(values)} people", f"{len(before)} rows"))
    if values is not None and table is not None and len(values) != table.table.num_rows:
        problems.add(
            expected("labels", f"one row for each of the {len(values)} embeddings", f"{table.table.num_rows} rows")
        )
    codes, classes = _encoded(table, attributes, target, problems) if table is not None else ({}, {})
    problems.raise_if_any()
    assert values is not None
    assert table is not None
    named = [*([target] if target else []), *attributes]
    found, given, remarks = _split(table, splits, codes, target, named, seed)
    columns = {name: Column.of(name, classes[name], codes[name], dict(found)) for name in codes}
    _check_splits(found, columns, attributes, target, problems)
    problems.raise_if_any()
    return Embeddings(values, before, codes, columns, found, given, (*table.warnings, *remarks))


def make_subject(found: Embeddings, attributes: Sequence[str], target: str | None, split: str) -> Subject:
    """Return what is attacked."""
    wanted = [target, *attributes]
    model, original = (
        None if values is None else _feature_set(found, values, target is None)
        for values in (found.values, found.original)
    )
    assert model is not None
    return Subject(
        model=model,
        original=original,
        attributes=tuple(found.columns[name] for name in attributes),
        others=tuple(column for name, column in found.columns.items() if name not in wanted),
        target=None if target is None else found.columns[target],
        rows=found.splits if found.given else {},
        split=split,
    )


def describe_data(found: Embeddings, attributes: Sequence[str], target: str | None, name: str) -> dict[str, Any]:
    """Return the data section of audit.json."""
    schema: dict[str, Any] = {} if target is None else {"target": _plain(found.columns[target])}
    schema["attributes"] = [_plain(found.columns[name]) for name in attributes]
    schema["others"] = [_plain(c) for n, c in found.columns.items() if n not in (target, *attributes)]
    return {
        "name": name,
        "target": target,
        "attributes": list(attributes),
        "image_shape": None,
        "n": {split: len(rows) for split, rows in found.splits.items()},
        "warnings": list(found.warnings),
        "schema": schema,
    }


def describe_model(found: Embeddings) -> dict[str, Any]:
    """Return the model section of audit.json."""
    shape = list(found.values.shape[1:])
    return {"name": None, "at": LAYER, "parameters": None, "feature_shape": shape, "auxiliary": None}


def _encoded(
    table: RawLabels, attributes: Sequence[str], target: str | None, problems: Problems
) -> tuple[dict[str, Int[np.ndarray, " n"]], dict[str, tuple[str, ...]]]:
    """Columns as class indices; problems of the wanted ones are noted."""
    encoded, refused = encode_labels(table)
    named = [*([target] if target else []), *attributes]
    if not attributes:
        problems.add(expected("attributes", "at least one column to attack", ()))
    for name in dict.fromkeys(named):
        if name in refused:
            problems.add(f"Column {name!r} {refused[name]}")
        elif name not in encoded:
            problems.add(f"No column {name!r} with labels. {did_you_mean(name, encoded)}")
        elif named.count(name) > 1:
            role = "both the target and an attribute" if name == target else "named more than once"
            problems.add(f"Column {name!r} is {role}.")
    return {name: column.codes for name, column in encoded.items()}, {n: c.names for n, c in encoded.items()}


def _with_split(labels: RawLabels | None, beside: RawLabels | None) -> RawLabels | None:
    """Give labels that name no splits those that stand beside the embeddings, row by row."""
    if labels is None or beside is None or len(labels.split) != len(beside.split):
        return labels
    named = (labels.split >= 0).any() or split_from_column(labels.table, labels.names) is not None
    return labels if named else replace(labels, split=resolve_split(beside.split, beside.table, beside.names)[0])


def _split(
    table: RawLabels,
    splits: Any,
    codes: Mapping[str, Int[np.ndarray, " n"]],
    target: str | None,
    names: Sequence[str],
    seed: int,
) -> tuple[dict[str, Int[np.ndarray, " _"]], bool, tuple[str, ...]]:
    """Row numbers by split, whether they were given, and remarks; a split that lacks is taken out of train."""
    rows = table.table.num_rows
    remarks: tuple[str, ...] = ()
    if splits is None:
        place, remarks = resolve_split(table.split, table.table, table.names)
    else:
        place = _places(splits, rows)
    usable = np.ones(rows, bool)
    if target is not None and (lacking := codes[target] == MISSING).any():
        remarks = (*remarks, f"{int(lacking.sum())} rows have no {target!r}, the target; dropped.")
        usable = ~lacking
    strata = np.stack([codes[name] for name in names], 1)
    return make_splits(place, usable, strata, FRACTIONS, seed), bool((place > 0).any()), remarks


def _places(splits: Any, rows: int) -> Int8[np.ndarray, " N"]:
    """Splits as given, by row: an index into SPLITS, -1 for none.

    Raises:
        DataError: Names are unknown, rows are in two splits or don't exist, or a name lacks.
    """
    problems, place = Problems(DataError), np.full(rows, NO_SPLIT, np.int8)
    if isinstance(splits, Mapping):
        for name, chosen in splits.items():
            where = np.asarray(chosen).reshape(-1)
            if name not in SPLITS:
                problems.add(expected("splits", "rows by split", name, did_you_mean(str(name), SPLITS)))
            elif where.dtype.kind not in "iu" or (where < 0).any() or (where >= rows).any():
                problems.add(expected(f"splits[{name!r}]", f"row numbers from 0 to {rows - 1}", where[:3].tolist()))
            elif (place[where] != NO_SPLIT).any() or len(np.unique(where)) < len(where):
                problems.add(f"Rows of the {name} split are given more than once, or are in another split too.")
            else:
                place[where] = SPLITS.index(name)
    else:
        words = [str(word) for word in splits]
        if len(words) != rows:
            problems.add(expected("splits", f"a name for each of the {rows} rows", f"{len(words)} names"))
        for word in dict.fromkeys(word for word in words if split_of(word) < 0):
            problems.add(expected("splits", "names of splits", word, did_you_mean(word, SPLITS)))
        place = np.array([split_of(word) for word in words], np.int8)
    problems.raise_if_any()
    return place


def _check_splits(
    splits: Splits, columns: Mapping[str, Column], attributes: Sequence[str], target: str | None, problems: Problems
) -> None:
    """Tell of splits that are empty, and of columns with one class in a split."""
    for name in SPLITS:
        if not len(splits[name]):
            problems.add(f"The {name} split is empty. Give more rows, or another column `split`.")
    for name in dict.fromkeys([*([target] if target else []), *attributes]):
        for split, counts in columns[name].counts.items():
            present = sum(count > 0 for count in counts)
            if present < 2 and len(splits[split]):
                problems.add(f"Column {name!r} has {present} class(es) in the {split} split; at least 2 are needed.")


def _feature_set(found: Embeddings, values: FeatureArray, untargeted: bool) -> FeatureSet:
    """Embeddings as an extraction would have kept them, but exact."""
    parts = {split: values[rows] for split, rows in found.splits.items()}
    labels = {
        split: {name: codes[rows] for name, codes in found.labels.items()} for split, rows in found.splits.items()
    }
    codes = {split: row_codes(part) for split, part in parts.items()}
    finite = len(np.unique(np.concatenate(list(codes.values())))) < len(values)
    one = FeatureSet(stored_from_arrays(parts, exact=True), labels, {}, LAYER, codes if finite else {})
    return without_target(one) if untargeted else one


def _plain(column: Column) -> dict[str, Any]:
    counts = {split: list(counts) for split, counts in column.counts.items()}
    return {"name": column.name, "classes": list(column.classes), "counts": counts, "missing": column.missing}
