"""Methods that differ from detachment in the loss of the released features only: one ``fit`` for all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batch
from efface.data.dataset import AttributeDataset
from efface.engine import Job, Part, fit
from efface.engine.seeds import seed_everything
from efface.heads.mounting import mounted
from efface.heads.release import Release
from efface.methods.base import Auxiliary, Method, UnlearnedModel
from efface.methods.detachment import Detachment, attribute_priors, former_blocks
from efface.methods.evaluation import Guessing, detachment_figures
from efface.methods.layers import example_batch, feature_shapes
from efface.models import count_flops, count_parameters, split
from efface.objectives import RIDGE, ClassifierObjective, RemovalHeads


@dataclass(frozen=True)
class Site:
    """Where a loss is placed.

    Attributes:
        shape: Shape of one sample's features.
        data: Images, target, attributes.
        priors: ``{attribute: [Y, A]}`` p(z|y) of the train split.
        config: Settings of the method.
        layer: What was put into the model there; None where nothing was.
        before: The blocks below as they were before unlearning, where `method.keep` asks for them.
    """

    shape: tuple[int, ...]
    data: AttributeDataset
    priors: Mapping[str, torch.Tensor]
    config: MethodConfig
    layer: Release | None = None
    before: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Crew:
    """What is placed there.

    Attributes:
        objective: The block's loss.
        guessing: Whose guesses are counted on validation.
        adversary: Removal heads that learn on their own; None where nothing does.
    """

    objective: nn.Module
    guessing: Guessing
    adversary: RemovalHeads | None = None


class PenalisedMethod(Method):
    """Every block but the last learns from the loss that ``place`` returns, the last one by cross-entropy."""

    preserves: ClassVar[bool] = True

    @abstractmethod
    def place(self, site: Site) -> Crew:
        """Return the loss of features of this shape."""

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Return the settings that the method uses: what it has no use for is turned off."""
        return config

    def mount(self, model: nn.Module, at: Sequence[str], data: AttributeDataset, config: MethodConfig) -> None:
        """Put layers into the model, before it is cut."""
        del model, at, data, config

    def check(self, config: MethodConfig, data: AttributeDataset) -> None:
        """Raise ConfigError for unknown heads, attributes and columns to preserve; all at once."""
        super().check(config, data)
        Detachment().check(config, data)

    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Cut the model at the layer(s), train every block from its own loss.

        Raises:
            ConfigError: A setting does not fit the data.
            CutError: The model can't be cut there.
        """
        self.check(config, data)
        data = data.preserving(config.preserve)
        config = self.settings(config)
        seed_everything(job.seed, job.model, "auxiliary")
        before = former_blocks(split(model, list(at)).blocks, config)
        self.mount(model, at, data, config)
        example = example_batch(data)
        cut = split(model, list(at), example.images)
        priors = attribute_priors(data, config)
        shapes = zip(feature_shapes(cut, example), cut.at, strict=True)
        sites = [
            Site(shape, data, priors, config, mounted(model, name), before[: number + 1])
            for number, (shape, name) in enumerate(shapes)
        ]
        crews = [self.place(site) for site in sites]
        parts = [
            Part(block, crew.objective, crew.adversary, config.head_lr, config.inner_steps, config.restart_every)
            for block, crew in zip(cut.blocks, crews, strict=False)
        ]
        cost = auxiliary_cost(crews, sites, model, example)
        parts.append(Part(cut.blocks[-1], ClassifierObjective(engine.label_smoothing)))
        history = fit(parts, data, engine, job, detachment_figures(cut.blocks, crews[0].guessing, data))
        return UnlearnedModel(cut.join(), cut.at, self.name, history, cost)


def plain(config: MethodConfig) -> MethodConfig:
    """Return settings without decoder and without closed-form head: what most published methods have."""
    return config.model_copy(update={"input_weight": 0.0, "heads": trained_kinds(config)})


def trained_kinds(config: MethodConfig) -> tuple[str, ...]:
    """Return the kinds of heads that learn by gradient steps; ``conv`` where none is named.

    Example:
        >>> trained_kinds(MethodConfig()), trained_kinds(MethodConfig(heads=("ridge",)))
        (('conv', 'grid'), ('conv',))
    """
    return tuple(kind for kind in config.heads if kind != RIDGE) or ("conv",)


def auxiliary_cost(crews: Sequence[Crew], sites: Sequence[Site], model: nn.Module, example: Batch) -> Auxiliary:
    """Count parameters and FLOPs per image of what is thrown away after training."""
    parameters = flops = 0
    for crew, site in zip(crews, sites, strict=True):
        objective, features = crew.objective.eval(), torch.zeros(2, *site.shape)
        crew.guessing.eval()  # its running statistics are no part of the objective
        flops += count_flops(_Total(objective, example), features) // 2
        modules = [objective, *([crew.adversary] if crew.adversary is not None else [])]
        parameters += sum(count_parameters(module, trainable=True) for module in modules)
    whole = count_flops(model, example.images) // len(example)
    return Auxiliary(parameters, parameters / count_parameters(model), flops, flops / max(1, whole))


class _Total(nn.Module):
    """An objective's loss as a function of features, for counting."""

    def __init__(self, objective: nn.Module, batch: Batch):
        super().__init__()
        self.objective, self.batch = objective, batch

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.objective(features, self.batch, 1.0).total
        return total


__all__ = [
    "Crew",
    "PenalisedMethod",
    "Site",
    "auxiliary_cost",
    "plain",
    "trained_kinds",
]
