"""The leaderboard of a comparison: a row per method and seed, means per method, as JSON, Markdown and a plot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

from efface.experiments.cells import ORIGINAL
from efface.report.formats import duration, is_number, memory, number
from efface.report.pareto import Point, save_pareto
from efface.report.words import certified_bound, upwards

MEANS = (
    "fidelity",
    "fidelity_original",
    "best_accuracy",
    "label_floor",
    "excess_leakage",
    "highest_excess_leakage",
    "conditional_bits",
    "kept_share",
    "median_selectivity",
    "aum",
    "certified",
    "train_s",
    "peak_rss_mb",
)
"""Columns of which means over seeds are taken."""
BETTER = {"fidelity": 1, "excess_leakage": -1, "kept_share": 1, "median_selectivity": 1}
"""What speaks for a method, and which way. A column that tells more than before is no better than one kept in full."""
TRADED = {name: BETTER[name] for name in ("fidelity", "excess_leakage")}
"""What the plot and its front are about."""
HEAD = (
    "method",
    "fidelity",
    "best attacker",
    "excess leakage",
    "by the highest attacker",
    "bits given the target",
    "kept on request",
    "median selectivity",
    "AUM",
    "certified",
    "training",
    "peak memory",
    "seeds",
)

PATHS = {"--data": ["--data", "DIR"], "--join": ["--join", "FILE"], "--out": []}
"""Flags that name a path, and what is told of them. Of another word that is a path of this machine, its end."""


def portable(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return configuration and environment without the paths of the machine, so that the file can be passed on.

    Example:
        >>> environment = {"command": "x compare p --data /a --out b -q"}
        >>> found = portable({"config": {"data": {"source": "/a/faces"}}, "environment": environment})
        >>> found["environment"]["command"], found["config"]["data"]["source"]
        ('efface compare p --data DIR -q', 'faces')
    """
    data, model = about["config"]["data"], about["config"].get("model", {})
    data = {**data, "source": Path(str(data.get("source"))).name, "cache": None}
    if model.get("weights"):
        model = {**model, "weights": Path(str(model["weights"])).name}
    return {
        **about,
        "config": {**about["config"], "data": data, **({"model": model} if model else {})},
        "environment": portable_environment(about["environment"]),
    }


def portable_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return versions, hardware and command without the paths of the machine.

    Example:
        >>> command = "x compare /a/p.yaml --set model.weights=/a/w.pt --data=/a --variants ../v.yaml"
        >>> portable_environment({"command": command})["command"]
        'efface compare p.yaml --set model.weights=w.pt --data DIR --variants v.yaml'
    """
    words, kept = iter(shlex.split(environment["command"])[1:]), ["efface"]
    for word in words:
        flag, given, _ = word.partition("=")
        if flag not in PATHS:
            kept.append(_local(word))
            continue
        kept += PATHS[flag]
        if not given:
            next(words, None)
    return {**environment, "command": shlex.join(kept)}


def _local(word: str) -> str:
    """Return a word of a command; of a path that leads out of the project, its last part."""
    head, is_, value = word.rpartition("=")
    path = Path(value)
    return head + is_ + path.name if path.is_absolute() or path.parts[:1] in (("..",), ("~",)) else word


def row_of(
    method: str, seed: int, audit: Mapping[str, Any], training: Mapping[str, Any], kept: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the row of a finished cell: its figures of the attribute that leaks most, and those of each attribute.

    Args:
        method: Its name.
        seed: Of data, weights and attackers.
        audit: As in audit.json.
        training: ``train_s`` in seconds, ``peak_rss_mb`` in MiB.
        kept: Columns that the comparison asks to keep, whether this method can or not. The least share of these and of
            those that this method was asked to keep is a figure of its own, and the median is over the others.
    """
    attributes = {name: _attribute(entry) for name, entry in audit["attributes"].items()}
    worst = max(attributes, key=lambda name: _leak(attributes[name]))
    others = audit.get("selectivity") or {"columns": []}
    survived = {column["column"]: (column["share"] or {}).get("value") for column in others["columns"]}
    preserved = [column["column"] for column in others["columns"] if column.get("preserved")]
    named = {*kept, *preserved}
    asked = [share for name, share in survived.items() if name in named and is_number(share)]
    unasked = [share for name, share in survived.items() if name not in named and is_number(share)]
    return {
        "method": method,
        "seed": seed,
        "fidelity": audit["fidelity"]["value"],
        "fidelity_ci": audit["fidelity"]["ci"],
        "fidelity_original": audit["fidelity"]["original"],
        "attribute": worst,
        **attributes[worst],
        "selectivity": survived,
        "preserved": preserved,
        "kept_share": min(asked, default=None),
        "median_selectivity": median(unasked) if unasked else None,
        "train_s": training["train_s"],
        "peak_rss_mb": training["peak_rss_mb"],
        "attributes": attributes,
    }


def _attribute(entry: Mapping[str, Any]) -> dict[str, Any]:
    best = entry["best"]["attacker"]
    found = next(attack for attack in entry["attackers"] if attack["name"] == best)
    certified, kept = entry.get("certificate"), entry.get("kept")
    return {
        "n": entry["n"],
        "best_accuracy": entry["best"]["accuracy"],
        "best_ci": entry["best"]["ci"],
        "best_attacker": best,
        "highest_accuracy": entry["highest"]["accuracy"],
        "majority": entry["floors"]["majority"],
        "label_floor": entry["floors"]["label"],
        "original_accuracy": entry["original_best"],
        "excess_leakage": entry["excess_leakage"],
        "excess_leakage_ci": entry["excess_leakage_ci"],
        "highest_excess_leakage": entry["highest"].get("excess_leakage"),
        "conditional_bits": found.get("conditional_bits"),
        "aum": entry["aum"],
        "certified": certified_bound(certified) if certified else None,
        "kept_accuracy": kept["accuracy"] if kept else None,
        "verdict": entry["verdict"],
    }


def _leak(entry: Mapping[str, Any]) -> float:
    return -1.0 if entry["excess_leakage"] is None else float(entry["excess_leakage"])


@dataclass(frozen=True)
class Leaderboard:
    """All rows of a comparison, and what they were made with.

    Attributes:
        rows: One per method and seed that is finished.
        failed: Method, seed and reason of those that ended with an error.
        pending: Method and seed of those not yet made.
        about: Name, configuration, environment, suite.
    """

    rows: Sequence[Mapping[str, Any]]
    failed: Sequence[Mapping[str, Any]]
    pending: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any]

    @cached_property
    def methods(self) -> list[dict[str, Any]]:
        """Means over seeds per method, with the least and the greatest; who leaks least is first.

        ``on_front``: no other method is as good in fidelity and excess leakage, and better in one. ``beaten_by``: those
        that are at least as good in fidelity, excess leakage, kept columns and median selectivity, and better in one.
        Both over the seeds that two methods have in common: a seed may be easier than another.
        """
        found = [self._mean(name) for name in dict.fromkeys(row["method"] for row in self.rows)]
        for entry in found:
            mine = entry["method"]
            others = [other["method"] for other in found if other["method"] != mine]
            leaks = is_number(entry["excess_leakage"])
            entry["on_front"] = leaks and not any(self._beats(other, mine, TRADED) for other in others)
            entry["beaten_by"] = [other for other in others if self._beats(other, mine, BETTER)]
        return sorted(found, key=lambda entry: (_leak(entry), -(entry["fidelity"] or 0.0)))

    def _beats(self, one: str, other: str, ways: Mapping[str, int]) -> bool:
        seeds = [{row["seed"] for row in self.rows if row["method"] == name} for name in (one, other)]
        shared = set.intersection(*seeds)
        return bool(shared) and _beats(self._mean(one, shared), self._mean(other, shared), ways)

    def _mean(self, method: str, seeds: Collection[int] | None = None) -> dict[str, Any]:
        rows = [row for row in self.rows if row["method"] == method and (seeds is None or row["seed"] in seeds)]
        entry: dict[str, Any] = {"method": method, "seeds": [row["seed"] for row in rows], "spread": {}}
        for name in MEANS:
            values = [row[name] for row in rows if is_number(row[name])]
            entry[name] = mean(values) if values else None
            entry["spread"][name] = [min(values), max(values)] if values else None
        return entry

    @property
    def points(self) -> list[Point]:
        """What the plot shows: methods with fidelity and excess leakage."""
        return [
            Point(name, tuple((row["excess_leakage"], row["fidelity"]) for row in rows), name == ORIGINAL)
            for name in dict.fromkeys(row["method"] for row in self.rows)
            if (rows := [r for r in self.rows if r["method"] == name and is_number(r["excess_leakage"])])
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        lists = {"rows": self.rows, "methods": self.methods, "failed": self.failed, "pending": self.pending}
        return {**portable(self.about), **{name: list(values) for name, values in lists.items()}}

    def write(self, folder: Path) -> None:
        """Write leaderboard.json, leaderboard.md, pareto.svg and pareto.png."""
        texts = {
            "leaderboard.json": json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "leaderboard.md": self.to_markdown(),
        }
        for name, text in texts.items():
            partial = folder / f".{name}.tmp"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
        if self.points:
            best = [entry["method"] for entry in self.methods if entry["on_front"]]
            save_pareto(self.points, folder / "pareto", best)

    def to_markdown(self) -> str:
        """Return the table, and what it was made with."""
        lines = [f"# {self.about['name']}: methods compared", "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
        lines += [_line(entry) for entry in self.methods]
        lines += ["", *self._notes(), ""]
        return "\n".join(lines)

    def _beaten(self) -> list[str]:
        """Say which methods have nothing that speaks for them, and against which others."""
        beaten = [f"{one['method']} by {', '.join(one['beaten_by'])}" for one in self.methods if one["beaten_by"]]
        said = (
            "Beaten in fidelity, leakage, kept columns and selectivity alike (over seeds that both have; ties count): "
        )
        return [f"- {said}{'; '.join(beaten) or 'none'}."] if len(self.methods) > 1 else []

    def _originals(self) -> list[str]:
        """Name seeds whose rows have more than one original, as those that were made on several machines may."""
        found: dict[int, set[float]] = {}
        for row in self.rows:
            found.setdefault(row["seed"], set()).add(row["fidelity_original"])
        return [
            f"- Seed {seed} has {len(values)} originals: fidelity {', '.join(map(number, sorted(values)))}. "
            "Rows were made apart, each is set against its own."
            for seed, values in found.items()
            if len(values) > 1
        ]

    def _calls(self, about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the calls that made rows; this one too, unless all say that they are of others."""
        mine, joined = about["environment"], list(about.get("joined", ()))
        made = [row.get("made", mine["started"]) for row in self.rows]
        return [*joined, mine] if mine["started"] in made or not joined else joined

    def _notes(self) -> list[str]:
        about, floors = portable(self.about), [row["label_floor"] for row in self.rows]
        notes = [
            "Means over seeds (least to greatest), fractions. **Bold**: no other method is as good in fidelity and "
            "excess leakage and better in one, over seeds that both have. Columns: docs/leaderboard.md.",
            "",
            *self._beaten(),
            f"- Suite `{about['suite']}`, read on {about['split']}; target {about['target']}, attributes "
            f"{', '.join(about['attributes'])}; to keep: {', '.join(about.get('preserve') or ()) or 'nothing named'}; "
            f"label floor {_range(floors)}.",
            *(_made(one) for one in self._calls(about)),
        ]
        if len({tuple(entry["seeds"]) for entry in self.methods}) > 1:
            notes += ["- Not every method has every seed yet: means of other seeds are not quite comparable."]
        notes += self._originals()
        notes += [f"- Failed: {one['method']}, seed {one['seed']}: {one['error']}" for one in self.failed]
        return notes + [f"- Not yet made: {one['method']}, seed {one['seed']}" for one in self.pending]


def _made(environment: Mapping[str, Any]) -> str:
    hardware = environment["hardware"]
    return (
        f"- {environment['started']}, {hardware['cpu']}, {hardware['cores']} core(s), accelerator "
        f"{hardware['accelerator']}, torch {environment['torch']}: `{environment['command']}`"
    )


def _beats(one: Mapping[str, Any], other: Mapping[str, Any], ways: Mapping[str, int]) -> bool:
    """Return whether nothing speaks for ``other`` against ``one``, and something for ``one``."""
    known, known_too = ([name for name in ways if entry[name] is not None] for entry in (one, other))
    if known != known_too:
        return False
    gains = [ways[name] * (_capped(one, name) - _capped(other, name)) for name in known]
    return any(gain > 0 for gain in gains) and all(gain >= 0 for gain in gains)


def _capped(entry: Mapping[str, Any], name: str) -> float:
    return min(entry[name], 1.0) if name in ("kept_share", "median_selectivity") else float(entry[name])


def _line(entry: Mapping[str, Any]) -> str:
    name = f"**{entry['method']}**" if entry["on_front"] else entry["method"]
    shown = [_with_spread(entry, column) for column in ("fidelity", "best_accuracy", "excess_leakage")]
    plain = ("highest_excess_leakage", "conditional_bits", "kept_share", "median_selectivity", "aum")
    shown += [number(entry[column]) for column in plain]
    certified = entry["certified"]
    shown += [number(None if certified is None else upwards(certified))]
    shown += [duration(entry["train_s"]), memory(entry["peak_rss_mb"]), str(len(entry["seeds"]))]
    return f"| {' | '.join([name, *shown])} |"


def _with_spread(entry: Mapping[str, Any], column: str) -> str:
    spread = entry["spread"][column]
    more = f" ({number(spread[0])} to {number(spread[1])})" if spread and len(entry["seeds"]) > 1 else ""
    return number(entry[column]) + more


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values, default=None)), number(max(values, default=None))
    return low if low == high else f"{low} to {high}"


__all__ = ["Leaderboard", "portable", "portable_environment", "row_of"]
