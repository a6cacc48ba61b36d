"""Several runs side by side: one table, and small multiples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from efface.errors import CheckpointError, Problems, expected
from efface.report import view, words
from efface.report.folder import Run, read_run
from efface.report.formats import duration, interval, is_number, memory, number, percent
from efface.report.render import environment, save_page, shell

SECONDS = tuple(view.PHASES)


@dataclass(frozen=True)
class Multiple:
    """A small figure: one number, a row per run.

    Attributes:
        title: What is shown.
        note: How to read it.
        values: A number per run.
        cis: An interval per run, or None.
        before: The original model's number per run, or None.
        floors: A label floor per run; empty where there is none.
        show: Number → text.
    """

    title: str
    note: str
    values: list[Any]
    cis: list[Any]
    before: list[Any]
    floors: tuple[Any, ...] = ()
    show: Callable[[object], str] = percent


def render_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Render several run folders as one page.

    Args:
        folders: Two or more run folders; one is allowed, and makes a short page.
        out: Where the page goes.

    Returns:
        ``out``.

    Raises:
        CheckpointError: No folder was named, or an audit.json is missing or damaged; all problems at once.
    """
    if not folders:
        raise CheckpointError(expected("folders", "one or more run folders", list(folders)))
    runs = _read(folders)
    names = run_names(runs)
    context = {
        **shell(),
        "title": "Runs side by side",
        "broad": True,
        "summary": f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {', '.join(names)}.",
        "rows": [row for name, run in zip(names, runs, strict=True) for row in table_rows(name, run)],
        "figures": [_figure(names, multiple, i) for i, multiple in enumerate(multiples(runs))],
        "notes": comparability(runs),
    }
    return save_page(environment().get_template("comparison.html.j2").render(context), Path(out))


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a name per run: the audit's, with the folder's where two share it."""
    names = [str(run.audit["name"]) for run in runs]
    folders = [run.folder.resolve().name if run.folder else str(i) for i, run in enumerate(runs, 1)]
    return [name if names.count(name) == 1 else f"{name} ({folders[i]})" for i, name in enumerate(names)]


def table_rows(name: str, run: Run) -> list[dict[str, Any]]:
    """Return a row per attribute of a run."""
    audit, fidelity = run.audit, run.audit["fidelity"]
    phases = audit.get("phases") or {}
    seconds = [phases[key] for key in SECONDS if is_number(phases.get(key))]
    rows = []
    for attribute_name, attribute in audit["attributes"].items():
        best, floors = attribute["best"], attribute["floors"]
        rows.append(
            {
                "run": name,
                "attribute": attribute_name,
                "state": view.STATES[attribute["verdict"]],
                "verdict": words.LABELS[attribute["verdict"]],
                "fidelity": percent(fidelity["value"]),
                "fidelity_ci": interval(fidelity.get("ci")),
                "fidelity_before": percent(fidelity.get("original")),
                "best": percent(best["accuracy"]),
                "best_ci": interval(best.get("ci")),
                "attacker": best["attacker"],
                "before": percent(attribute.get("original_best")),
                "label": percent(floors["label"]),
                "majority": percent(floors["majority"]),
                "chance": percent(floors["chance"]),
                "excess": percent(attribute.get("excess_leakage")),
                "excess_ci": interval(attribute.get("excess_leakage_ci")),
                "aum": number(attribute["aum"]),
                "aum_ceiling": number(attribute["aum_ceiling"]),
                "seconds": duration(sum(seconds)) if seconds else duration(None),
                "memory": memory(phases.get("peak_rss_mb")),
            }
        )
    return rows


def multiples(runs: Sequence[Run]) -> list[Multiple]:
    """Return the small figures: fidelity, per attribute what attackers got, seconds and memory."""
    fidelity = [run.audit["fidelity"] for run in runs]
    found = [
        Multiple(
            "Fidelity",
            "task accuracy; hollow: original model",
            _column(fidelity, "value"),
            _column(fidelity, "ci"),
            _column(fidelity, "original"),
        )
    ]
    for name in dict.fromkeys(name for run in runs for name in run.audit["attributes"]):
        found += _attribute_multiples(name, [run.audit["attributes"].get(name) or {} for run in runs])
    return found + _cost_multiples([run.audit.get("phases") or {} for run in runs])


def comparability(runs: Sequence[Run]) -> list[str]:
    """Return what the reader must know before comparing: other data, task, split, seed or cut."""
    looks = {
        "data set": [run.audit["data"]["name"] for run in runs],
        "task": [str(run.audit["data"].get("target") or "none") for run in runs],
        "split": [run.audit.get("split") or "test" for run in runs],
        "cut": [view.layer(run.audit["model"].get("at")) for run in runs],
        "model": [str(run.audit["model"].get("name") or "") for run in runs],
        "seed": [str(run.audit.get("seed")) for run in runs],
    }
    return [
        f"The runs differ in {what}: {', '.join(dict.fromkeys(v))}." for what, v in looks.items() if len(set(v)) > 1
    ]


def _read(folders: Sequence[Path]) -> list[Run]:
    runs, problems = [], Problems(CheckpointError)
    for folder in folders:
        try:
            runs.append(read_run(Path(folder)))
        except CheckpointError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return runs


def _attribute_multiples(name: str, attributes: list[dict[str, Any]]) -> list[Multiple]:
    best = [attribute.get("best") or {} for attribute in attributes]
    floors = tuple((attribute.get("floors") or {}).get("label") for attribute in attributes)
    nothing = [None] * len(attributes)
    return [
        Multiple(
            f"Best attacker on {name}",
            "accuracy; upright mark: label floor; hollow: original model",
            _column(best, "accuracy"),
            _column(best, "ci"),
            _column(attributes, "original_best"),
            floors,
        ),
        Multiple(
            f"Excess leakage of {name}",
            "0 % nothing beyond the task answer, 100 % as before",
            _column(attributes, "excess_leakage"),
            _column(attributes, "excess_leakage_ci"),
            nothing,
        ),
    ]


def _cost_multiples(phases: list[dict[str, Any]]) -> list[Multiple]:
    seconds = [[phase[key] for key in SECONDS if is_number(phase.get(key))] for phase in phases]
    total = [sum(parts) if parts else None for parts in seconds]
    nothing = [None] * len(phases)
    found = []
    if any(total):
        found.append(Multiple("Time", "all phases", total, nothing, nothing, show=duration))
    peak = [phase.get("peak_rss_mb") for phase in phases]
    if any(map(is_number, peak)):
        found.append(Multiple("Peak memory", "of the whole run", peak, nothing, nothing, show=memory))
    return found


def _column(rows: Sequence[Any], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def _figure(names: list[str], multiple: Multiple, index: int) -> dict[str, Any]:
    from efface.report.plots import Dot, comparison_figure
    from efface.report.svg import to_svg

    parts = zip(names, multiple.values, multiple.cis, multiple.before, strict=True)
    dots = [Dot(name, value, ci, before) for name, value, ci, before in parts]
    alt = f"{multiple.title}: {', '.join(f'{dot.name} {multiple.show(dot.value)}' for dot in dots)}."
    svg = to_svg(lambda: comparison_figure(dots, multiple.floors, multiple.show), alt, f"m{index}")
    return {"title": multiple.title, "note": multiple.note, "svg": Markup(svg)}
