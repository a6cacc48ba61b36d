"""Table 1: efficacy and fidelity of baseline 2, unlearning and baseline 1, over data sets and ResNets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efface.experiments.paper import measured
from efface.experiments.paper.cells import Cell, Workshop
from efface.experiments.paper.measured import Figures
from efface.experiments.paper.page import Page, printed
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import (
    ATTRIBUTE,
    BASELINE_1,
    BASELINE_2,
    DATASETS,
    MODELS,
    NAMES,
    ROLES,
    TABLE_1,
    UNLEARNING,
)

HEAD = (
    "data", "model", "column", "efficacy, printed", "ours: ResNet18 attacker", "ours: strongest attacker",
    "floor: label (majority, chance)", "fidelity, printed", "ours", "AUM, printed", "ours: ResNet18 attacker",
    "ours: strongest attacker", "AUM ceiling", "excess leakage", "images: train / test",
)  # fmt: skip
LEGEND = (
    "Efficacy is the accuracy of an attacker: lower is better. `ResNet18 attacker` is the paper's protocol, its "
    "accuracy as it "
    "is; `strongest` is the attacker that validation picks, two-sided for binary attributes.",
    "The label floor is what one guesses who knows the main task's label and no features; the AUM ceiling follows "
    "from it "
    "at fidelity 1. Excess leakage: 0 nothing beyond what the label says, 1 as much as the original model.",
    "Baseline 1 is the original model; baseline 2 is trained, and attacked, on images without the attribute's key "
    "area.",
)


@dataclass(frozen=True)
class Block:
    """A row of the paper's table: one data set, one model.

    Attributes:
        dataset: Of the paper.
        model: ResNet.
        column: The attribute's, in the data that are read.
        figures: By method, one per seed.
    """

    dataset: str
    model: str
    column: str
    figures: Mapping[str, list[Figures]]


def pairs(plan: Plan, model: str, dataset: str) -> list[tuple[Cell, Cell]]:
    """Return the cells of a row: unlearning (with baseline 1) and baseline 2, per seed."""
    task, attributes = plan.tasks[dataset], [ATTRIBUTE[dataset]]
    return [
        (plan.unlearning(task, attributes, model, seed), plan.masked(task, attributes, model, seed))
        for seed in plan.seeds
    ]


def blocks(plan: Plan, shop: Workshop) -> list[Block]:
    """Make all cells of the table; return its rows in the paper's order."""
    found: dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for number in range(len(plan.seeds)):
        for model, dataset in plan.scale.rows():
            unlearned, masked = pairs(plan, model, dataset)[number]
            found.setdefault((dataset, model), []).append((shop.run(unlearned), shop.run(masked)))
    return [
        _block(plan, dataset, model, found[dataset, model])
        for dataset in DATASETS
        for model in MODELS
        if (dataset, model) in found
    ]


def _block(plan: Plan, dataset: str, model: str, made: list[tuple[dict[str, Any], dict[str, Any]]]) -> Block:
    column = plan.tasks[dataset].columns[ATTRIBUTE[dataset]]
    figures = {
        BASELINE_2: [measured.after(masked, column, unlearned) for unlearned, masked in made],
        UNLEARNING: [measured.after(unlearned, column) for unlearned, _ in made],
        BASELINE_1: [measured.before(unlearned, column) for unlearned, _ in made],
    }
    return Block(dataset, model, column, figures)


def rows(plan: Plan, made: list[Block]) -> list[tuple[str, ...]]:
    """Return the texts of the table; rows that this scale leaves out are there without figures of ours."""
    by_place = {(block.dataset, block.model): block for block in made}
    found = []
    for (dataset, model), row in TABLE_1.items():
        block = by_place.get((dataset, model))
        for role, name in ROLES.items():
            shown = plan.tasks[dataset].shown if block else "not at this scale"
            head = (f"{NAMES[dataset]} ({shown})", NAMES[model], name)
            ours = figure_cells(block.figures[role]) if block else ("–",) * 9
            print_ = row[role]
            found.append(
                (*head, printed(print_.efficacy), *ours[:3], printed(print_.fidelity), ours[3],
                 printed(print_.aum), *ours[4:])
            )  # fmt: skip
    return found


def figure_cells(figures: list[Figures]) -> tuple[str, ...]:
    """Return nine texts: both efficacies, floors, fidelity, both AUMs, ceiling, excess leakage, images."""
    one = figures[0]
    floors = f"{one.floor:.3f} ({one.majority:.3f}, {one.chance:.3f})"
    first, fidelity = ("protocol", "strongest"), measured.of(figures, "fidelity")
    last = ("protocol_aum", "strongest_aum", "ceiling", "excess")
    return (
        *(measured.of(figures, name) for name in first),
        floors,
        fidelity,
        *(measured.of(figures, name) for name in last),
        measured.counts(figures),
    )


def notes(plan: Plan, *more: str) -> tuple[str, ...]:
    """Return what a reader must know of scale, data and seeds."""
    seeds = f"{len(plan.seeds)} seed(s)" + ("; brackets: lowest and highest." if len(plan.seeds) > 1 else ".")
    stands = [f"{task.note[0].upper()}{task.note[1:]}." for task in plan.tasks.values() if task.note]
    changed = [f"Settings of the user's own: {', '.join(plan.overrides)}."] if plan.overrides else []
    return (f"Scale `{plan.scale.name}`: {plan.scale.about}. {seeds}", *changed, *stands, *LEGEND, *more)


def make(plan: Plan, shop: Workshop) -> Page:
    """Make the table."""
    made = blocks(plan, shop)
    lede = (
        "What the paper prints, what we measure, and what guessing reaches without features, side by side. Fractions."
    )
    return Page("table1", "Table 1: efficacy and fidelity", lede, HEAD, tuple(rows(plan, made)), notes(plan))
