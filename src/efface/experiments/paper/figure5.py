"""Figure 5: AUM of baseline 2, unlearning and baseline 1, printed and ours, under their ceiling."""

from __future__ import annotations

from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from efface.experiments.paper import table1
from efface.experiments.paper.cells import Workshop
from efface.experiments.paper.page import Page, Picture, printed
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import DATASETS, NAMES, ROLES, TABLE_1
from efface.experiments.paper.table1 import Block
from efface.report.svg import blank
from efface.report.theme import LIGHT

COLOURS = dict(zip(ROLES, (LIGHT["series-4"], LIGHT["accent"], LIGHT["before"]), strict=True))
WIDTH = 0.26


def make(plan: Plan, shop: Workshop) -> Page:
    """Draw the figure from table 1's cells."""
    made = table1.blocks(plan, shop)
    title = "Figure 5: attribute unlearning measure"
    alt = (
        "AUM of the strongest attacker as bars, the paper's printed AUM as white marks with a dark edge, the ceiling "
        "as "
        "a line."
    )
    picture = Picture("figure5", title, alt, lambda: figure(made, plan))
    rows = [
        (NAMES[b.dataset], NAMES[b.model], ROLES[role], printed(TABLE_1[b.dataset, b.model][role].aum),
         f"{mean(one.strongest_aum for one in ours):.3f}", f"{mean(one.ceiling for one in ours):.3f}")
        for b in made
        for role, ours in b.figures.items()
    ]  # fmt: skip
    head = ("data", "model", "column", "AUM, printed", "ours: strongest attacker", "ceiling")
    lede = "The numbers are table 1's. The ceiling is what one who knows the label alone leaves, in the data read here."
    return Page("figure5", title, lede, head, tuple(rows), table1.notes(plan), (picture,))


def figure(blocks: list[Block], plan: Plan) -> Figure:
    """Draw a panel per data set: bars are ours, diamonds what the paper prints, lines the ceilings."""
    made = blank(860, 330)
    shown = [dataset for dataset in DATASETS if any(block.dataset == dataset for block in blocks)]
    for place, dataset in enumerate(shown):
        axes = made.add_axes((0.06 + 0.94 * place / len(shown), 0.24, 0.94 / len(shown) - 0.04, 0.64))
        _panel(axes, [block for block in blocks if block.dataset == dataset])
        axes.set_title(f"{NAMES[dataset]} ({plan.tasks[dataset].shown})", fontsize=11, loc="left")
    marks = {"marker": "D", "markerfacecolor": LIGHT["surface"], "markeredgecolor": LIGHT["ink"], "linestyle": ""}
    handles: list[Patch | Line2D] = [Patch(color=COLOURS[role], label=f"{name}, ours") for role, name in ROLES.items()]
    handles.append(Line2D([], [], markersize=6, label="printed", **marks))  # type: ignore[arg-type]
    handles.append(Line2D([], [], color=LIGHT["floor"], label="ceiling"))
    made.legend(handles=handles, loc="lower center", ncols=5, fontsize=10)
    return made


def _panel(axes: Axes, blocks: list[Block]) -> None:
    for group, block in enumerate(blocks):
        for place, (role, ours) in enumerate(block.figures.items()):
            x, values = group + (place - 1) * WIDTH, [one.strongest_aum for one in ours]
            axes.bar(x, mean(values), WIDTH * 0.9, color=COLOURS[role])
            if len(values) > 1:
                axes.plot([x, x], [min(values), max(values)], color=LIGHT["ink"], linewidth=1.2)
            aum = TABLE_1[block.dataset, block.model][role].aum or 0.0
            axes.plot([x], [aum], "D", markersize=6, markerfacecolor=LIGHT["surface"], markeredgecolor=LIGHT["ink"])
        ceiling = mean(one.ceiling for ours in block.figures.values() for one in ours)
        axes.plot([group - 1.5 * WIDTH, group + 1.5 * WIDTH], [ceiling] * 2, color=LIGHT["floor"])
    axes.set_xticks(range(len(blocks)), [NAMES[block.model] for block in blocks])
    axes.set_xlim(-0.55, max(len(blocks), 1) - 0.45)
    axes.set_ylim(0, 1)
    axes.grid(axis="y")
