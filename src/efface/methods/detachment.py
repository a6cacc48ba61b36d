"""Representation detachment: the paper's method (section 3), in the variants ``paper`` and ``conditional``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batch, Batches
from efface.data.dataset import AttributeDataset
from efface.engine import Job, Part, fit
from efface.engine.seeds import seed_everything
from efface.errors import ConfigError, Problems, did_you_mean
from efface.heads import TRUNKS
from efface.information import prior_table
from efface.methods.base import Auxiliary, Method, UnlearnedModel
from efface.methods.evaluation import detachment_figures
from efface.models import count_flops, count_parameters, split
from efface.objectives import RIDGE, ClassifierObjective, DetachmentObjective, RemovalHeads


class Detachment(Method):
    """The extractor learns to keep image and target and to drop the attributes; the classifier learns on top."""

    name: ClassVar[str] = "detachment"
    summary: ClassVar[str] = "representation detachment (the paper), variants paper and conditional"
    preserves: ClassVar[bool] = True

    def check(self, config: MethodConfig, data: AttributeDataset) -> None:
        """Raise ConfigError for unknown heads, weights of attributes that are not unlearned, unknown columns to keep.

        All at once.
        """
        problems = Problems(ConfigError)
        names, kinds = [column.name for column in data.attributes], [*TRUNKS, RIDGE]
        for name in set(config.attribute_weights) - set(names):
            problems.add(f"`method.attribute_weights` names {name!r}. {did_you_mean(name, names)}")
        for kind in set(config.heads) - set(kinds):
            problems.add(f"`method.heads` names {kind!r}. {did_you_mean(kind, kinds)}")
        problems.attempt(lambda: data.preserving(config.preserve))
        problems.raise_if_any()

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
            ConfigError: ``attribute_weights`` names an attribute that is not unlearned.
            CutError: The model can't be cut there.
        """
        self.check(config, data)
        data = data.preserving(config.preserve)
        example = next(iter(Batches(data, "train", 2, torch.device("cpu"), augment=None).sequential()))
        cut = split(model, list(at), example.images)
        seed_everything(job.seed, job.model, "auxiliary")
        priors = attribute_priors(data, config)
        parts, removal = [], []
        signal, auxiliary = example.images, []
        before = former_blocks(cut.blocks, config)
        for number, block in enumerate(cut.blocks[:-1], 1):
            signal = _peek(block, signal)
            heads = RemovalHeads(signal.shape[1:], priors, config)
            shapes = signal.shape[1:], data.image_shape
            objective = DetachmentObjective(*shapes, data.schema, heads, config, before[:number])
            parts.append(Part(block, objective, heads, config.head_lr, config.inner_steps, config.restart_every))
            removal.append(heads)
            auxiliary.append(_cost(objective, heads, signal, example))
        parts.append(Part(cut.blocks[-1], ClassifierObjective(engine.label_smoothing)))
        cost = _shares(auxiliary, model, example)
        history = fit(parts, data, engine, job, detachment_figures(cut.blocks, removal[0], data))
        return UnlearnedModel(cut.join(), cut.at, self.name, history, cost)


def former_blocks(blocks: Sequence[nn.Module], config: MethodConfig) -> list[nn.Module]:
    """Return copies of all blocks but the last as they are now, where `method.keep` asks for them; else nothing."""
    wanted = config.keep == "features" and config.input_weight
    return [copy.deepcopy(block) for block in blocks[:-1]] if wanted else []


def attribute_priors(data: AttributeDataset, config: MethodConfig) -> dict[str, torch.Tensor]:
    """Return p(z|y) of the train split per attribute ``[Y, A]``; p(z) in every row for the ``paper`` variant."""
    target = torch.from_numpy(data.split_labels("train", data.target.name))
    priors = {}
    for column in data.attributes:
        labels = torch.from_numpy(data.split_labels("train", column.name))
        given = target if config.conditional_removal else torch.zeros_like(target)
        table = prior_table(labels, given, column.n_classes, data.target.n_classes, smoothing=1.0)
        priors[column.name] = table if config.conditional_removal else table[:1].expand_as(table).clone()
    return priors


@torch.inference_mode()
def _peek(block: nn.Module, signal: torch.Tensor) -> torch.Tensor:
    """Features of the example, leaving the block's statistics alone."""
    mode = block.training
    block.eval()
    features = block(signal)
    block.train(mode)
    return features


def _cost(
    objective: DetachmentObjective, removal: RemovalHeads, features: torch.Tensor, batch: Batch
) -> tuple[int, int]:
    """Parameters and FLOPs per image of one auxiliary network."""
    objective.eval(), removal.eval()
    flops = count_flops(_Forward(objective, batch), features.clone()) // len(features)
    return sum(count_parameters(module, trainable=True) for module in (objective, removal)), flops


class _Forward(nn.Module):
    """The objective's forward pass as a function of features, for counting."""

    def __init__(self, objective: DetachmentObjective, batch: Batch):
        super().__init__()
        self.objective, self.batch = objective, batch

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.objective(features, self.batch, 1.0).total


def _shares(costs: list[tuple[int, int]], model: nn.Module, batch: Batch) -> Auxiliary:
    parameters, flops = (sum(column) for column in zip(*costs, strict=True))
    whole = count_flops(model, batch.images) // len(batch.images)
    return Auxiliary(parameters, parameters / count_parameters(model), flops, flops / max(1, whole))
