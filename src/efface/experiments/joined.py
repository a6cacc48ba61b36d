"""Rows of a comparison that were made elsewhere: other seeds or methods, on another machine or another day."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from efface.config import Config, MethodConfig, Section
from efface.errors import ConfigError, Problems, expected
from efface.experiments.folder import differences
from efface.methods import find_method

SECTIONS = tuple(name for name, value in MethodConfig() if isinstance(value, Section))
"""Settings of single methods."""

OF_METHODS = ("method.", "other_methods.")
"""Settings that each row answers for itself, by its fingerprint."""


@dataclass(frozen=True)
class Joined:
    """Rows that are not made again.

    Attributes:
        rows: By method and seed.
        environments: Of the calls that made them; where rows don't name theirs, of all that their table names.
    """

    rows: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    environments: Sequence[Mapping[str, Any]] = ()


def read_joined(
    files: Sequence[Path], config: Config, about: Mapping[str, Any], mark: Callable[[str, int], str | None]
) -> Joined:
    """Read the rows of leaderboards that were made with the same settings; the first file that has a cell wins.

    A row that was made with other settings of its method than it would be today is left out: it is made again.

    Args:
        files: Each a leaderboard.json.
        config: Of the comparison that they join. Seed, threads, and where the data lie may differ.
        about: What that comparison's leaderboard says of itself.
        mark: The ``fingerprint`` that a row of this method and seed has today; None where it is not wanted.

    Raises:
        ConfigError: A file can't be read, or its rows were made with other settings; all problems at once.
    """
    problems = Problems(ConfigError)
    rows: dict[tuple[str, int], Mapping[str, Any]] = {}
    environments: list[Mapping[str, Any]] = []
    for path in files:
        board = problems.attempt(partial(_read, path, config, about))
        for row in (board or {}).get("rows", ()):
            cell = row["method"], row["seed"]
            today = mark(*cell)
            if cell not in rows and today is not None and row.get("fingerprint") == today:
                rows[cell] = row
                environments += [one for one in _origins(board or {}, row) if one not in environments]
    problems.raise_if_any()
    return Joined(rows, environments)


def mark_of(config: Config) -> str:
    """Return 16 hex digits over what changes a cell's weights, but for its seed and threads and where its data lie.

    Sections that are another method's count for nothing: a new code for `quantised` makes no row of LEACE anew.

    Example:
        >>> mark_of(Config(seed=1)) == mark_of(Config()) != mark_of(Config().updated(["engine.epochs=1"]))
        True
        >>> mark_of(Config().updated(["method.code.width=8"])) == mark_of(Config())
        True
    """
    read, fresh = find_method(config.method.name).sections, MethodConfig()
    unread = {name for name in SECTIONS if name not in read}
    method = config.method.model_copy(update={name: getattr(fresh, name) for name in unread})
    return _comparable(config.model_copy(update={"method": method})).fingerprint()


def _read(path: Path, config: Config, about: Mapping[str, Any]) -> dict[str, Any]:
    try:
        board = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read {str(path)!r}: {error}. --join takes a leaderboard.json.") from None
    if not _is_board(board):
        raise ConfigError(expected("--join", "the leaderboard.json of `efface compare`", str(path)))
    try:
        there = _comparable(Config.from_mapping(board["config"]))
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} was made with settings that are not known: {error}") from None
    found = [text for text in differences(there, _comparable(config)) if not text.startswith(OF_METHODS)]
    if sorted(board.get("preserve") or ()) != sorted(about["preserve"]):
        found.append(f"columns to keep {board.get('preserve')!r} there, {about['preserve']!r} here")
    if found:
        raise ConfigError(
            f"{str(path)!r} was made with other settings: {'; '.join(found[:8])}. "
            "Give the same settings, or make its rows again."
        )
    return board


def _is_board(board: Any) -> bool:
    """Whether this is what ``compare`` writes, as far as it is read here."""
    if not isinstance(board, dict) or not {"rows", "config", "environment"} <= board.keys():
        return False
    environments = [board["environment"], *(board.get("joined") or ())]
    return (
        isinstance(board["rows"], list)
        and all(isinstance(row, dict) and {"method", "seed"} <= row.keys() for row in board["rows"])
        and all(isinstance(one, dict) and "started" in one for one in environments)
    )


def _origins(board: Mapping[str, Any], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a row was made with: what its table names, if the row does not say which of them."""
    known = [*board.get("joined", ()), board["environment"]]
    return [one for one in known if one["started"] == row.get("made")] or known


def _comparable(config: Config) -> Config:
    """Return a configuration without what may differ between rows of one table."""
    source = Path(str(config.data.source)).name
    same = {"seed": 0, "name": "", "description": ""}
    values = config.model_dump() | same
    values["data"] |= {"source": source, "cache": None}
    values["engine"] |= {"threads": None, "checkpoint_every": 0, "log_every": 1}
    return Config.from_mapping(values)


__all__ = ["SECTIONS", "Joined", "mark_of", "read_joined"]
