"""Figure 6: AUM over λ2 × λ3 for two λ1, with the phase line; and what the paper lacks, the front of all trade-offs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean

from efface.experiments.paper import maps, measured
from efface.experiments.paper.cells import Cell, Workshop
from efface.experiments.paper.page import Page, Picture
from efface.experiments.paper.plan import Plan
from efface.report.formats import number

MODEL = "resnet18"
MARGINAL = ("method.variant=paper", "method.keep=image")
"""The terms as the paper prints them, which the phase rule is about."""
HEAD = (
    "λ1",
    "λ2",
    "λ3",
    "efficacy: strongest attacker",
    "label floor",
    "fidelity",
    "AUM",
    "excess leakage",
    "on the front",
)


@dataclass(frozen=True)
class Point:
    """One choice of weights, means over seeds.

    Attributes:
        weights: λ1, λ2, λ3.
        efficacy: Of the strongest attacker.
        floor: Label floor.
        fidelity: Of the main task.
        aum: Of both.
        excess: Excess leakage; None where the original leaks nothing.
    """

    weights: tuple[float, float, float]
    efficacy: float
    floor: float
    fidelity: float
    aum: float
    excess: float | None


def cell(plan: Plan, weights: tuple[float, float, float], seed: int) -> Cell:
    """Return the cell of a choice of weights, under the marginal objective, which the phase rule is about."""
    grid, task = plan.scale.grid, plan.grid_task()
    names = ("input_weight", "target_weight", "removal_weight")
    more = [f"method.{name}={value!r}" for name, value in zip(names, weights, strict=True)]
    config = plan.config(task, [grid.attribute], MODEL, seed, [*grid.settings, *MARGINAL, *more])
    return Cell("-".join(["figure6", task.dataset, *(f"{value:g}" for value in weights)]), config)


def points(plan: Plan, shop: Workshop) -> list[Point]:
    """Make all cells of the maps; the first is audited beside the original, whose ceiling serves all."""
    grid = plan.scale.grid
    column = plan.grid_task().columns[grid.attribute]
    choices = list(product(grid.input_weights, grid.target_weights, grid.removal_weights))
    ceilings = {seed: shop.run(replace(cell(plan, choices[0], seed), beside_original=True)) for seed in plan.seeds}
    found = []
    for weights in choices:
        ours = [measured.after(shop.run(cell(plan, weights, seed)), column, ceilings[seed]) for seed in plan.seeds]
        excess = [one.excess for one in ours if one.excess is not None]
        found.append(
            Point(
                weights,
                mean(one.strongest for one in ours),
                mean(one.floor for one in ours),
                mean(one.fidelity for one in ours),
                mean(one.strongest_aum for one in ours),
                mean(excess) if excess else None,
            )
        )
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both fidelity and excess leakage, from the least leaky on.

    Example:
        >>> a, b, c = (Point((0.0, 0.0, 0.0), 0.0, 0.0, f, 0.0, e) for f, e in [(0.9, 0.5), (0.8, 0.1), (0.7, 0.2)])
        >>> [point.fidelity for point in front([a, b, c])]
        [0.8, 0.9]
    """
    known = [point for point in points if point.excess is not None]
    found: list[Point] = []
    for point in sorted(known, key=lambda one: (one.excess or 0.0, -one.fidelity)):
        if not found or point.fidelity > found[-1].fidelity:
            found.append(point)
    return found


def make(plan: Plan, shop: Workshop) -> Page:
    """Draw maps and front."""
    made, grid, task = points(plan, shop), plan.scale.grid, plan.grid_task()
    best = front(made)
    rows = [
        (*(f"{value:g}" for value in point.weights), f"{point.efficacy:.3f}", f"{point.floor:.3f}",
         f"{point.fidelity:.3f}", f"{point.aum:.3f}", number(point.excess), "yes" if point in best else "")
        for point in made
    ]  # fmt: skip
    pictures = (
        Picture(
            "figure6",
            "AUM over λ2 × λ3",
            "Heat maps of AUM, one per λ1; right of the dashed line (λ3 > λ1) the theory predicts that the attribute "
            "is "
            "dropped.",
            lambda: maps.heat_maps(made, grid),
        ),
        Picture(
            "figure6-front",
            "Fidelity against excess leakage",
            "Every choice of weights as a dot; those that no other beats in both are joined.",
            lambda: maps.front_figure(made, best),
        ),
    )
    epochs = cell(plan, made[0].weights, plan.seeds[0]).config.engine.epochs
    notes = (
        f"Scale `{plan.scale.name}`: {plan.scale.about}. Data: {task.shown}, {task.columns[grid.attribute]} unlearned, "
        f"{epochs} epochs, {len(plan.seeds)} seed(s).",
        *((f"{task.note[0].upper()}{task.note[1:]}.",) if task.note else ()),
        "Variant `paper` (marginal terms). The phase rule: for z independent of y, h without synergy and exact "
        "information "
        "terms in nats, the optimum drops z for λ3 > λ1 and keeps it below. λ1 multiplies a sum over pixels here; the "
        "paper's 5 and 2.5 are in units that it does not state, so the two values share the ratio 2 : 1 with them.",
        "The decoder's cross-entropy is worth more per image than the bits of a label, so the measured change may "
        "lie to the right of "
        "the line. What the map shows counts.",
    )
    lede = (
        "The paper's sensitivity analysis, with its predicted phase line, and the front of fidelity and excess leakage."
    )
    return Page("figure6", "Figure 6: sensitivity to the weights", lede, HEAD, tuple(rows), notes, pictures)
