"""The paper's own arithmetic: which printed figures don't follow from each other, and which lie below a floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from efface.audit.metrics import aum
from efface.experiments.paper.printed import (
    ATTRIBUTE,
    BASELINE_2,
    FLOORS,
    MAJORITY,
    MODELS,
    NAMES,
    ROLES,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    UNLEARNING,
    Printed,
)

HALF = 0.00005
"""Half of the last printed digit."""


@dataclass(frozen=True)
class Where:
    """A printed cell.

    Attributes:
        place: Table, row and column, as the paper names them.
        dataset: Of the row.
        attribute: That is unlearned.
        printed: What stands there.
    """

    place: str
    dataset: str
    attribute: str
    printed: Printed


def cells() -> Iterator[Where]:
    """Return every printed cell of tables 1 and 3 and the efficacies of table 2."""
    for (dataset, model), row in TABLE_1.items():
        for role, printed in row.items():
            place = f"table 1, {NAMES[dataset]}, {NAMES[model]}, {ROLES[role]}"
            yield Where(place, dataset, ATTRIBUTE[dataset], printed)
    for model, speed in TABLE_2.items():
        for name, printed in (("raw", speed.raw), ("speedup", speed.local)):
            yield Where(f"table 2, {NAMES[model]}, {name}", "cifar10", "class", printed)
    for (dataset, attribute), printed in TABLE_3.items():
        yield Where(f"table 3, {NAMES[dataset]}, {attribute.replace('_', ' ')}", dataset, attribute, printed)


@dataclass(frozen=True)
class Misfit:
    """A printed AUM that does not follow from its efficacy and fidelity.

    Attributes:
        where: The cell.
        lowest: Least AUM of any efficacy and fidelity that round to the printed ones.
        highest: Greatest.
    """

    where: Where
    lowest: float
    highest: float


def aum_range(printed: Printed) -> tuple[float, float]:
    """Return the least and the greatest AUM of figures that round to the printed ones.

    Example:
        >>> low, high = aum_range(Printed(0.5, 0.5))
        >>> 0.4999 < low < 0.5 < high < 0.5001
        True
    """
    # AUM falls with efficacy and rises with fidelity.
    return aum(printed.efficacy + HALF, printed.fidelity - HALF), aum(printed.efficacy - HALF, printed.fidelity + HALF)


def misfits() -> list[Misfit]:
    """Return the cells whose printed AUM can't be had from their printed efficacy and fidelity."""
    found = []
    for where in cells():
        if where.printed.aum is None:
            continue
        low, high = aum_range(where.printed)
        if not low - HALF <= where.printed.aum <= high + HALF:
            found.append(Misfit(where, low, high))
    return found


def below_floor() -> list[tuple[Where, float]]:
    """Return the cells whose attacker is worse than one who knows y and looks at nothing, with that floor."""
    found = [(where, FLOORS[where.dataset, where.attribute].guess) for where in cells()]
    return [(where, floor) for where, floor in found if where.printed.efficacy < floor - HALF]


def below_majority() -> list[tuple[Where, float]]:
    """Return the cells whose main task is worse than a constant answer, with what that reaches."""
    found = [(where, MAJORITY[where.dataset].guess) for where in cells() if where.dataset in MAJORITY]
    return [(where, least) for where, least in found if where.printed.fidelity < least - HALF]


def answer_floor(fidelity: float) -> float:
    """Return what CIFAR-10's class is guessed with at least by one who asks the model itself whether it is living.

    Six of ten classes live, each is a tenth of the images. Knowing the answer, one names a fixed living or a fixed
    other class; errors may fall as they like, and fall here where they hurt the guess most.

    Example:
        >>> round(answer_floor(1.0), 4), round(answer_floor(0.9351), 4)
        (0.2, 0.1838)
    """
    # 0.6·a + 0.4·b = fidelity for the shares a and b of right answers; the guess is right with 0.1·(a + b).
    living = min(1.0, fidelity / 0.6)
    return 0.1 * (living + max(0.0, fidelity - 0.6 * living) / 0.4)


def disagreements() -> list[str]:
    """Return, in words, what two tables print differently, and ratios that don't follow from their parts."""
    found = []
    for model in MODELS:
        one, two = TABLE_1["cifar10", model][UNLEARNING], TABLE_2[model].local
        if (one.efficacy, one.fidelity) != (two.efficacy, two.fidelity):
            found.append(
                f"Cifar10, {NAMES[model]}, unlearning: efficacy {one.efficacy:.4f} and fidelity {one.fidelity:.4f} in "
                f"table 1, {two.efficacy:.4f} and {two.fidelity:.4f} in table 2."
            )
    for (dataset, attribute), three in TABLE_3.items():
        one = TABLE_1[dataset, "resnet18"][UNLEARNING]
        if attribute == ATTRIBUTE[dataset] and one != three:
            found.append(
                f"{NAMES[dataset]}, ResNet18, {attribute}: AUM {one.aum:.4f} in table 1, {three.aum:.4f} in table 3, "
                "of "
                "the same efficacy and fidelity."
            )
    return [*found, *_ratios()]


def _ratios() -> list[str]:
    found = []
    for model, row in TABLE_2.items():
        speedup, saving = row.latency[0] / row.latency[1], 1 - row.memory[1] / row.memory[0]
        if abs(speedup - row.speedup) > 0.0006:
            found.append(f"Table 2, {NAMES[model]}: speedup {row.speedup} printed, {speedup:.4f} from the latencies.")
        if abs(saving - row.saving) > 0.0011:
            found.append(
                f"Table 2, {NAMES[model]}: memory {row.saving:.1%} less printed, {saving:.1%} from the two amounts."
            )
    return found


def to_markdown() -> str:
    """Return both lists, and what else does not agree, for docs/reproduction.md."""
    wrong, low, dull = misfits(), below_floor(), below_majority()
    with_aum = [where for where in cells() if where.printed.aum is not None]
    parts = [
        f"**AUM.** {len(with_aum) - len(wrong)} of {len(with_aum)} printed AUMs follow from the efficacy and the "
        "fidelity "
        f"beside them, rounding allowed for. {len(wrong)} don't:",
        _table(
            ("cell", "efficacy", "fidelity", "AUM printed", "AUM recomputed"),
            [
                (
                    m.where.place,
                    *_three(m.where.printed),
                    f"{aum(m.where.printed.efficacy, m.where.printed.fidelity):.4f}",
                )
                for m in wrong
            ],
        ),
        "**Figures that don't agree with each other.**",
        "\n".join(f"- {line}" for line in disagreements()),
        f"**Efficacy below the floor.** In {len(low)} cells the attacker is worse than one who knows the main task's "
        "label "
        "and looks at no features. A figure below that line describes the attacker that was trained; it does not "
        "show that "
        "the features tell nothing. The floors are those of the data sets' own proportions: the paper does not say "
        "that "
        "it drew its test images otherwise.",
        _table(("cell", "efficacy printed", "floor", "where the floor comes from"), [_floor_row(*one) for one in low]),
        "On CIFAR-10 an attacker can ask the released model itself whether the image is living. At the printed "
        "fidelities "
        + ", ".join(
            f"{printed.fidelity:.4f} ({NAMES[model]})"
            for model in MODELS
            if (printed := TABLE_1["cifar10", model][UNLEARNING])
        )
        + " that alone gives at least "
        + ", ".join(f"{answer_floor(TABLE_1['cifar10', model][UNLEARNING].fidelity):.3f}" for model in MODELS)
        + ", wherever its errors fall.",
        f"**Fidelity below a constant answer.** In {len(dull)} cells, all of {ROLES[BASELINE_2]}, the model is worse "
        "at the main "
        "task than the answer that is most frequent:",
        _table(
            ("cell", "fidelity printed", "constant answer", "where that comes from"),
            [
                (where.place, f"{where.printed.fidelity:.4f}", f"{least:.4f}", MAJORITY[where.dataset].why)
                for where, least in dull
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _three(printed: Printed) -> tuple[str, str, str]:
    return f"{printed.efficacy:.4f}", f"{printed.fidelity:.4f}", f"{printed.aum:.4f}"


def _floor_row(where: Where, floor: float) -> tuple[str, ...]:
    why = FLOORS[where.dataset, where.attribute].why
    return where.place, f"{where.printed.efficacy:.4f}", f"{floor:.4f}", why


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
