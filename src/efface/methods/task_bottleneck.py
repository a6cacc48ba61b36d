"""A task-only bottleneck: the model's guess of the target is released and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from efface.config import MethodConfig
from efface.data.dataset import AttributeDataset
from efface.heads.quantiser import TaskBottleneck
from efface.methods.layers import insert, ordered
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives import DetachmentObjective
from efface.objectives.adversarial import without_heads
from efface.objectives.bottleneck import BottleneckObjective


class Bottleneck(PenalisedMethod):
    """The lower anchor of selectivity: keeps y as far as the extractor can tell it, drops all else."""

    name: ClassVar[str] = "task_bottleneck"
    summary: ClassVar[str] = "releases the guess of the target alone: the lower anchor of selectivity"
    preserves: ClassVar[bool] = False  # only the guess passes

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder and the heads: nothing is left that they could act on."""
        return plain(config)

    def mount(self, model: nn.Module, at: Sequence[str], data: AttributeDataset, config: MethodConfig) -> None:
        """Put the bottleneck at the first cut: what comes after is a function of its guess."""
        classes, width = data.target.n_classes, config.head_width
        insert(model, ordered(model, at)[0], data, lambda shape: TaskBottleneck(shape, classes=classes, width=width))

    def place(self, site: Site) -> Crew:
        """Return the loss of the guess; after further cuts, that of the target alone."""
        nothing = without_heads(site.shape, site.priors, site.config)
        if isinstance(site.layer, TaskBottleneck):
            return Crew(BottleneckObjective(site.layer), nothing)
        objective = DetachmentObjective(site.shape, site.data.image_shape, site.data.schema, nothing, site.config)
        return Crew(objective, nothing)
