"""Which cells a table needs: the paper's tasks, at a scale, as configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from efface.config import Config
from efface.experiments.paper.cells import Cell
from efface.experiments.paper.printed import BASELINE_2, UNLEARNING
from efface.experiments.paper.scales import Grid, Scale
from efface.experiments.paper.tasks import Task, find_tasks
from efface.experiments.presets import find_config


@dataclass(frozen=True)
class Plan:
    """What is reproduced, and how.

    Attributes:
        scale: How large.
        tasks: By data set of the paper.
        seeds: Every cell is made with each.
        overrides: The user's ``section.name=value``, on top of all others.
    """

    scale: Scale
    tasks: Mapping[str, Task]
    seeds: tuple[int, ...] = (0,)
    overrides: tuple[str, ...] = ()

    def config(self, task: Task, attributes: Sequence[str], model: str, seed: int, more: Iterable[str] = ()) -> Config:
        """Return the settings of a cell.

        Args:
            task: Where data come from.
            attributes: As the paper names them.
            model: ResNet.
            seed: Of everything.
            more: ``section.name=value`` on top of the scale's.
        """
        columns = [task.columns[name] for name in attributes]
        # A preset may name a method that goes past the paper's, and columns to keep, which the paper has not.
        own = [
            "method.name=detachment",
            "method.preserve=[]",
            f"data.source={task.source!r}",
            f"data.attributes={columns}",
        ]
        own += [*task.settings, f"model.name={model}"]
        scale = [*self.scale.settings, *self.scale.of_model.get(model, ())]
        return find_config(task.preset, [*own, *scale, *more, *self.overrides, f"seed={seed}"])

    def unlearning(
        self,
        task: Task,
        attributes: Sequence[str],
        model: str,
        seed: int,
        weights: Mapping[str, float] | None = None,
        more: Iterable[str] = (),
    ) -> Cell:
        """Return the cell of attribute unlearning; baseline 1 is audited with it."""
        own = [] if not weights else [f"method.attribute_weights={ {task.columns[a]: w for a, w in weights.items()} }"]
        config = self.config(task, attributes, model, seed, [*own, *more])
        return Cell(_name(task, model, UNLEARNING, attributes, more), config, beside_original=True)

    def masked(self, task: Task, attributes: Sequence[str], model: str, seed: int) -> Cell:
        """Return the cell of baseline 2."""
        config = self.config(task, attributes, model, seed, [f"method.name={BASELINE_2}"])
        return Cell(_name(task, model, BASELINE_2, attributes), config)

    def grid_task(self) -> Task:
        """Return the task of figure 6."""
        grid = self.scale.grid
        if grid.dataset == DRAWN_GRID:
            return find_tasks(None, ("celeba",))["celeba"]
        return self.tasks[grid.dataset]


DRAWN_GRID = "drawn"
"""Data set of a grid on drawn faces, whatever the scale."""


def datasets_of_grid(grid: Grid) -> tuple[str, ...]:
    """Return the paper's data sets that figure 6 reads."""
    return () if grid.dataset == DRAWN_GRID else (grid.dataset,)


def _name(task: Task, model: str, method: str, attributes: Sequence[str], more: Iterable[str] = ()) -> str:
    schedule = [setting.split("=")[1] for setting in more if setting.startswith("engine.schedule=")]
    return "-".join([task.dataset, model, method, "+".join(attributes), *schedule])
