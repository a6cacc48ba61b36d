"""Table 3: other attributes, and several at once, each with its own weight and its own line."""

from __future__ import annotations

from typing import Any

from efface.experiments.paper import measured
from efface.experiments.paper.cells import Workshop
from efface.experiments.paper.page import Page, printed
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import NAMES, TABLE_3
from efface.experiments.paper.table1 import figure_cells, notes

MODEL = "resnet18"
HEAD = (
    "data", "unlearned", "read off", "efficacy, printed", "ours: ResNet18 attacker", "ours: strongest attacker",
    "floor: label (majority, chance)", "fidelity, printed", "ours", "fidelity of the original", "AUM, printed",
    "ours: ResNet18 attacker", "ours: strongest attacker", "AUM ceiling", "excess leakage", "images: train / test",
)  # fmt: skip
TOGETHER: tuple[tuple[str, dict[str, float]], ...] = (
    ("fairface", {"race": 1.0, "age": 0.5}),
    ("celeba", {"Male": 1.0, "Big_Nose": 0.5}),
    ("celeba", {"Male": 1.0, "Mustache": 0.5, "Big_Nose": 0.5}),
)
"""Several attributes at once, and the factor of each on the removal weight (the extended lemma 3.2)."""


def make(plan: Plan, shop: Workshop) -> Page:
    """Make the table."""
    rows: list[tuple[str, ...]] = []
    for dataset, attribute in TABLE_3:
        rows += _rows(plan, shop, dataset, {attribute: 1.0})
    for dataset, weights in TOGETHER:
        rows += _rows(plan, shop, dataset, weights)
    lede = (
        "One attribute at a time, as the paper prints; then two and three at once, which it only speaks of. Fractions."
    )
    more = "Several at once: the number behind an attribute is the factor on its removal weight."
    return Page("table3", "Table 3: attributes", lede, HEAD, tuple(rows), notes(plan, more))


def _rows(plan: Plan, shop: Workshop, dataset: str, weights: dict[str, float]) -> list[tuple[str, ...]]:
    """Return a line per attribute of one training."""
    task, several = plan.tasks[dataset], len(weights) > 1
    cells = [plan.unlearning(task, [*weights], MODEL, seed, weights if several else None) for seed in plan.seeds]
    made: list[dict[str, Any]] = [shop.run(cell) for cell in cells]
    together = " + ".join(f"{name} ({weight:g})" if several else name for name, weight in weights.items())
    found = []
    for name in weights:
        column = task.columns[name]
        after = [measured.after(one, column) for one in made]
        original = measured.of([measured.before(one, column) for one in made], "fidelity")
        one = None if several else TABLE_3[dataset, name]
        shown = (printed(one.efficacy), printed(one.fidelity), printed(one.aum)) if one else ("–",) * 3
        ours = figure_cells(after)
        head = (f"{NAMES[dataset]} ({task.shown})", together.replace("_", " "), column)
        found.append((*head, shown[0], *ours[:3], shown[1], ours[3], original, shown[2], *ours[4:]))
    return found
