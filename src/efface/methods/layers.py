"""Layers at the cut, from a method's side: where they go, what they see, and the classifier that learns on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from efface.config import EngineConfig
from efface.data.batches import Batch, Batches
from efface.data.dataset import AttributeDataset
from efface.engine import History, Job, Part, fit
from efface.errors import ConfigError, expected
from efface.heads.mounting import mount_checked
from efface.heads.release import Release
from efface.methods.evaluation import fidelity_of
from efface.models import SplitModel, split
from efface.models.state import evaluating, reading
from efface.objectives import ClassifierObjective
from efface.shapes import Features, Images


def example_batch(data: AttributeDataset) -> Batch:
    """Return two training images, on the CPU."""
    return next(iter(Batches(data, "train", 2, torch.device("cpu"), augment=None).sequential()))


def check_outputs(model: nn.Module, data: AttributeDataset) -> None:
    """Raise ConfigError unless the model answers with one logit per class of the target."""
    images = example_batch(data).images
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    with evaluating(model), reading(images):
        logits = model(images.to(device))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != data.target.n_classes:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = f"a model with one output for each of the {data.target.n_classes} classes of {data.target.name}"
        raise ConfigError(expected("model", wanted, got, "A binary task needs two logits, not one."))


@torch.no_grad()
def peek(block: nn.Module, signal: Tensor) -> Features:
    """Return a block's output in evaluation mode, leaving its mode and statistics alone."""
    mode = block.training
    features: Features = block.eval()(signal)
    block.train(mode)
    return features


def feature_shapes(cut: SplitModel, example: Batch) -> list[tuple[int, ...]]:
    """Return the shape of one sample's features at each cut."""
    shapes, signal = [], example.images
    for block in cut.blocks[:-1]:
        signal = peek(block, signal)
        shapes.append(tuple(signal.shape[1:]))
    return shapes


def ordered(model: nn.Module, at: Sequence[str]) -> tuple[str, ...]:
    """Return the cuts in the order of the forward pass.

    Raises:
        CutError: The model can't be cut there.
    """
    return split(model, list(at)).at


def insert(model: nn.Module, at: str, data: AttributeDataset, build: Callable[[tuple[int, ...]], Release]) -> Release:
    """Build a layer for the features at a cut, put it there, and return it.

    Raises:
        ConfigError: There is a layer already.
        CutError: The model can't be cut there, or its code does not take the layer.
    """
    device = next(model.parameters()).device
    images: Images = example_batch(data).images.to(device)
    before = peek(split(model, at, images).blocks[0], images)
    layer = build(tuple(before.shape[1:]))
    mount_checked(model, at, layer, before, lambda: peek(split(model, at).blocks[0], images))
    return layer


class OnTop(nn.Module):
    """The classifier on fixed features: blocks below stay in evaluation mode and get no gradient.

    Args:
        fixed: The blocks below.
        top: The last block.
    """

    def __init__(self, fixed: Sequence[nn.Module], top: nn.Module):
        super().__init__()
        self.fixed, self.top = nn.ModuleList(fixed), top

    def train(self, mode: bool = True) -> OnTop:
        """Put the classifier into training mode, or out of it; the rest stays in evaluation mode."""
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, images: Images) -> Tensor:
        """Return logits."""
        signal: Tensor = images
        with torch.no_grad():
            for block in self.fixed:
                signal = block(signal)
        logits: Tensor = self.top(signal)
        return logits


def settle(
    model: nn.Module, at: Sequence[str], data: AttributeDataset, epochs: int, engine: EngineConfig, job: Job
) -> History:
    """Train the last block on features that stay as they are, so that it knows what is released now.

    No epochs: only fidelity is measured.
    """
    cut = split(model, list(at))
    if not epochs:
        return _measured(model, data, engine, job)
    with frozen(cut.blocks[:-1]):
        part = Part(OnTop(cut.blocks[:-1], cut.blocks[-1]), ClassifierObjective(engine.label_smoothing))
        settings = engine.model_copy(update={"epochs": epochs, "schedule": "local"})
        return fit([part], data, settings, job, fidelity_of(model, data))


@contextmanager
def frozen(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let no parameter of the blocks learn, and give back afterwards which did."""
    learning = [p for block in blocks for p in block.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _measured(model: nn.Module, data: AttributeDataset, engine: EngineConfig, job: Job) -> History:
    """Return a history of no steps, with the fidelity of the model as it is."""
    from efface.engine.devices import make_fabric

    fabric = make_fabric(engine)
    figures = dict(fidelity_of(model.to(fabric.device), data)(fabric))
    line: dict[str, object] = {"model": job.model, "step": 0, "epoch": 0.0, "split": "validation", "metrics": figures}
    return History(0.0, 0, [line])


def both(first: History, second: History) -> History:
    """Return the history of two trainings, one after the other."""
    return History(first.seconds + second.seconds, first.steps + second.steps, [*first.lines, *second.lines])


__all__ = ["OnTop", "both", "example_batch", "feature_shapes", "frozen", "insert", "ordered", "peek", "settle"]
