"""Reads a run folder. Only audit.json is needed; a missing or damaged other file becomes a note on the page."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from efface.errors import CheckpointError, Problems, expected
from efface.report.schema import VERSION, findings

PICTURES = ("images", "original", "unlearned")
"""Arrays of reconstructions.npz, uint8 ``[N, C, H, W]``; ``labels`` are the N captions. ``original`` may be absent."""


@dataclass(frozen=True)
class Run:
    """What a report is made of.

    Attributes:
        audit: Content of audit.json, checked against its schema.
        metrics: Lines of metrics.jsonl.
        config: Text of config.yaml.
        environment: Content of environment.json.
        reconstructions: Arrays of reconstructions.npz (see `PICTURES`).
        notes: What could not be read, in words.
        folder: Where it was read; None for an audit in memory.
    """

    audit: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = ()
    config: str | None = None
    environment: Mapping[str, Any] | None = None
    reconstructions: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())
    folder: Path | None = None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        CheckpointError: audit.json is missing, damaged, or of another schema version.
    """
    folder = Path(folder)
    audit = read_audit(folder / "audit.json")
    notes: list[str] = []
    return Run(
        audit=audit,
        metrics=_metrics(folder / "metrics.jsonl", notes),
        config=_text(folder / "config.yaml", notes),
        environment=_environment(folder / "environment.json", notes),
        reconstructions=_reconstructions(folder / "reconstructions.npz", notes),
        notes=tuple(notes),
        folder=folder,
    )


def read_audit(path: Path) -> dict[str, Any]:
    """Read and check audit.json.

    Raises:
        CheckpointError: The file is missing, is no JSON, or departs from the schema.
    """
    run = path.parent
    if not path.is_file():
        raise CheckpointError(
            f"No audit.json in the run folder {str(run)!r}. Run `efface audit {run}`, "
            "or name the folder of a finished `efface run`."
        )
    try:
        audit = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}. Run `efface audit {run}` again.") from None
    return check_audit(audit, str(path))


def check_audit(audit: Any, source: str = "audit") -> dict[str, Any]:
    """Return ``audit`` if it follows the schema of version 1.

    Raises:
        CheckpointError: All departures at once, or a schema version that is not known.
    """
    if not isinstance(audit, dict):
        raise CheckpointError(expected(source, "an object with the results of an audit", audit))
    version = audit.get("schema_version")
    if str(version).partition(".")[0] != VERSION.partition(".")[0]:
        hint = "Run `efface audit` again with this version of efface, or read the file with the one that wrote it."
        raise CheckpointError(expected(f"{source}: schema_version", f"{VERSION} (any 1.x is read)", version, hint))
    problems = Problems(CheckpointError)
    for finding in findings(audit):
        problems.add(f"{source}: {finding}. Run `efface audit` again.")
    problems.raise_if_any()
    return audit


def check_reconstructions(arrays: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the reconstructions, or None.

    Example:
        >>> check_reconstructions({"images": np.zeros((2, 3, 8, 8), np.uint8)})
        'the array `unlearned` is missing'
    """
    for name in ("images", "unlearned"):
        if name not in arrays:
            return f"the array `{name}` is missing"
    present = [name for name in PICTURES if name in arrays]
    shapes = {np.shape(arrays[name]) for name in present}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        return f"the arrays should share one shape [N, 1 or 3, H, W], but have {sorted(shapes)}"
    kinds = {np.asarray(arrays[name]).dtype for name in present}
    return None if kinds == {np.dtype(np.uint8)} else f"the arrays should be uint8, but are {sorted(map(str, kinds))}"


def usable_metrics(lines: Iterable[Any]) -> tuple[Mapping[str, Any], ...]:
    """Keep the lines that have metrics."""
    return tuple(line for line in lines if isinstance(line, Mapping) and isinstance(line.get("metrics"), Mapping))


def _text(path: Path, notes: list[str]) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return None


def _environment(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    text = _text(path, notes)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return None
    return values if isinstance(values, dict) else None


def _metrics(path: Path, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    lines, damaged = [], 0
    for text in (_text(path, notes) or "").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            damaged += bool(text.strip())
    if damaged:
        notes.append(f"{damaged} damaged {'line' if damaged == 1 else 'lines'} of {path.name} left out.")
    return usable_metrics(lines)


def _reconstructions(path: Path, notes: list[str]) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        notes.append(f"{path.name} could not be read: {error}.")
        return None
    problem = check_reconstructions(arrays)
    if problem:
        notes.append(f"{path.name} left out: {problem}.")
        return None
    return arrays
