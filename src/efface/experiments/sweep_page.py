"""What a sweep leaves behind: a page with its trade-offs, and the best of them as presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from efface.experiments.paper import maps
from efface.experiments.paper.page import Page, Picture
from efface.experiments.presets import find_config
from efface.report.formats import number
from efface.report.svg import blank
from efface.report.theme import LIGHT

if TYPE_CHECKING:
    from optuna import Study

    from efface.experiments.sweep_plan import Sweep

MOST = 8
"""Presets that are exported."""


@dataclass(frozen=True)
class Try:
    """A trial that ended.

    Attributes:
        number: Of the trial.
        values: Of what was searched.
        pruned: Whether it was cut short; its figures are then of the short training.
        fidelity: On validation.
        excess: Excess leakage of the leakiest attribute, on validation.
        aum: Score: harmonic mean of fidelity, 1 − excess and what is kept.
        kept: Least share of the columns kept on request, on validation; None where there is none.
    """

    number: int
    values: dict[str, float]
    pruned: bool
    fidelity: float
    excess: float | None
    aum: float
    kept: float | None = None

    @property
    def weights(self) -> tuple[float, float, float]:
        """The first three values, for drawings that name them."""
        first, second, third = [*self.values.values(), 0.0, 0.0, 0.0][:3]
        return first, second, third


def ended(study: Study) -> list[Try]:
    """Return the trials that ended with figures, in order."""
    from optuna.trial import TrialState

    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        notes: dict[str, Any] = trial.user_attrs
        if "score" in notes:
            pruned = trial.state == TrialState.PRUNED
            figures = notes["fidelity"], notes["excess"], notes["score"], notes.get("kept")
            found.append(Try(trial.number, dict(trial.params), pruned, *figures))
    return found


def front(tries: Sequence[Try]) -> list[Try]:
    """Return the finished trials that no other beats in fidelity, excess leakage and kept columns alike.

    The least leaky is first. A column that tells more than before is no better than one kept in full.
    """
    finished = [one for one in tries if not one.pruned]
    merits = {one.number: (one.fidelity, -(one.excess or 0.0), min(1.0, one.kept or 0.0)) for one in finished}
    found: dict[tuple[float, float, float], Try] = {}
    for one in finished:
        mine = merits[one.number]
        if not any(_beats(other, mine) for other in merits.values()):
            found.setdefault(mine, one)
    return sorted(found.values(), key=lambda one: (one.excess or 0.0, -one.fidelity))


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def write(plan: Sweep, study: Study) -> list[Path]:
    """Write the page, its figures, and a preset per trade-off on the front."""
    tries = ended(study)
    best = front(tries)
    presets = export(plan, best)
    names, asked = [one.name for one in plan.ranges], plan.config().method.preserve
    rows = [_row(one, names, bool(asked), one in best) for one in sorted(tries, key=lambda one: -one.aum)]
    finished = [t for t in tries if not t.pruned]
    pictures = (
        Picture(
            "sweep-front",
            "Fidelity against excess leakage",
            "Finished trials as dots; those that no other beats in both"
            + (" and in what is kept" if asked else "")
            + " are joined.",
            lambda: maps.front_figure(finished, best),
        ),
        Picture(
            "sweep-history",
            "Score by trial",
            "Finished trials as dots, those cut short as crosses, the best so far as a line.",
            lambda: history(tries),
        ),
        Picture(
            "sweep-values",
            "Score by value",
            "A panel per setting that was searched; finished trials only.",
            lambda: slices(finished, names),
        ),
    )
    notes: tuple[str, ...] = (
        "Figures are those of the validation split, by which the weights were chosen: they are optimistic. Run an "
        "exported preset to have those of test.",
        "Excess leakage is that of the leakiest attribute; the score is the harmonic mean of fidelity"
        + (", 1 − excess and kept, at most 1." if asked else " and 1 − excess."),
        f"{len(finished)} trials finished; {len(tries) - len(finished)} were cut short after a quarter of the epochs, "
        "and their figures are of that short training.",
        f"Presets of the front: {', '.join(f'front/{path.name}' for path in presets) or 'none yet'}.",
    )
    if asked:
        what = "as a share of what it finds in the original above the majority; the least of them"
        notes = (*notes, f"Kept: what a probe still finds of {', '.join(asked)}, {what}.")
    head = ("trial", *names, "fidelity", "excess leakage", *(["kept"] if asked else []), "score", "")
    lede = f"Preset {Path(plan.preset).name}; {len(tries)} trials."
    page = Page(
        "sweep", "Sweep of weights", lede, head, tuple(rows), notes, pictures, over="Weights, searched on validation"
    )
    return [*page.write(plan.folder), *presets]


def _row(one: Try, names: Sequence[str], asked: bool, on_front: bool) -> tuple[str, ...]:
    return (
        str(one.number),
        *(f"{one.values[name]:.4g}" for name in names),
        *(number(value) for value in (one.fidelity, one.excess or 0.0, *([one.kept] if asked else []), one.aum)),
        "cut short" if one.pruned else "front" if on_front else "",
    )


def export(plan: Sweep, best: Sequence[Try]) -> list[Path]:
    """Write at most so many presets, spread over the front; those of an earlier call are replaced."""
    folder = plan.folder / "front"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.yaml"):
        old.unlink()
    step = (len(best) - 1) / (MOST - 1) if len(best) > MOST else 1.0
    chosen = [best[round(step * i)] for i in range(min(MOST, len(best)))]
    paths = []
    for place, one in enumerate(chosen, 1):
        base = find_config(plan.preset, [*plan.overrides, *(f"{name}={value!r}" for name, value in one.values.items())])
        kept = "" if one.kept is None else f", kept {one.kept:.3f}"
        figures = f"fidelity {one.fidelity:.3f}, excess leakage {one.excess or 0.0:.3f}{kept}"
        about = f"{figures} on validation; trial {one.number}"
        values = {**base.model_dump(mode="json"), "name": f"{base.name}-front-{place}", "description": about}
        path = folder / f"{values['name']}.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        paths.append(path)
    return paths


def history(tries: Sequence[Try]) -> Figure:
    """Draw the score of each trial in order."""
    made = blank(560, 300)
    axes = made.add_axes((0.11, 0.18, 0.86, 0.74))
    for pruned, mark, colour in ((False, "o", LIGHT["accent"]), (True, "x", LIGHT["before"])):
        some = [t for t in tries if t.pruned is pruned]
        axes.plot([t.number for t in some], [t.aum for t in some], mark, color=colour,
                  label="cut short" if pruned else "finished")  # fmt: skip
    best, so_far = [], 0.0
    for one in tries:
        so_far = so_far if one.pruned else max(so_far, one.aum)
        best.append(so_far)
    axes.plot([t.number for t in tries], best, color=LIGHT["floor"], drawstyle="steps-post", label="best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("score")
    axes.grid()
    axes.legend(fontsize=10, loc="lower right")
    return made


def slices(tries: Sequence[Try], names: Sequence[str]) -> Figure:
    """Draw the score over each value that was searched."""
    made = blank(max(300, 260 * len(names)), 260)
    for place, name in enumerate(names):
        left = 0.07 + 0.93 * place / len(names)
        axes = made.add_axes((left, 0.22, 0.93 / len(names) - 0.05, 0.7))
        axes.plot([t.values[name] for t in tries], [t.aum for t in tries], "o", color=LIGHT["accent"], alpha=0.8)
        axes.set_xscale("log")
        _ticks(axes, [t.values[name] for t in tries])
        axes.set_xlabel(name.removeprefix("method."))
        axes.grid()
        if not place:
            axes.set_ylabel("score")
    return made


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Mark a few values of a logarithmic axis in plain numbers: matplotlib's own labels are formulas."""
    if not values:
        return
    marks = np.geomspace(min(values), max(values), 4) if max(values) > min(values) else np.array(values[:1])
    axes.set_xticks(marks, [f"{mark:.2g}" for mark in marks])
    axes.xaxis.set_minor_locator(NullLocator())
