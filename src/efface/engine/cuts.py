"""``model.at: auto``: measure a model's candidate layers as they will be trained, and settle where to cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from efface.config import EngineConfig
from efface.data.dataset import AttributeDataset
from efface.engine.devices import resolve_precision, under_torchrun
from efface.engine.threads import choose_threads
from efface.errors import ConfigError, expected
from efface.heads import build_head
from efface.models.measure import CutCosts, Proposal, auto_goal, measure_cuts, measure_module


@dataclass(frozen=True)
class Measured:
    """A model's candidate layers, with the least auxiliary network that each would need.

    Attributes:
        costs: Of the layers.
        heads: Seconds of a target head's step at each layer.
    """

    costs: CutCosts
    heads: dict[str, float]

    def propose(self, goal: str, blocks: int = 2) -> Proposal:
        """Return the best cut, target heads included."""
        return self.costs.propose(goal, blocks, self.heads)


def measure_layers(model: nn.Module, images: Tensor, classes: int, *, bfloat16: bool) -> Measured:
    """Measure every layer at which a model can be cut, on this machine as it is.

    Args:
        model: Left as it was.
        images: ``[B, C, H, W]``, a batch of the size that will be trained with, where it will be.
        classes: Of the target.
        bfloat16: Whether training will compute in bfloat16.
    """
    costs = measure_cuts(model, images, bfloat16=bfloat16)
    heads = {}
    for layer in costs.layers:
        head = build_head("conv", layer.shape[1:], classes).to(images.device)
        heads[layer.name] = measure_module(head, torch.randn(layer.shape, device=images.device), bfloat16=bfloat16)
    return Measured(costs, heads)


def settle_cut(model: nn.Module, at: str | Sequence[str], data: AttributeDataset, config: EngineConfig) -> list[str]:
    """Return the layers to cut at: those that are named, or what ``auto`` stands for on this machine.

    Args:
        model: Left as it was.
        at: Layer names, or ``auto`` (for speed), ``auto:speed``, ``auto:memory``, ``auto:balance``: two blocks.
        data: What will be trained on; its images' shape counts, not their content.
        config: Batch size, precision, device and threads of the training to come.

    Raises:
        ConfigError: The goal is unknown; or there are several processes, which might measure different cuts.
    """
    goal = auto_goal(at)
    if goal is None:
        return [at] if isinstance(at, str) else list(at)
    if under_torchrun() or config.devices > 1:
        advice = "Measure once, with `efface ls layers MODEL --measure`."
        raise ConfigError(expected("model.at", "named layers where several processes train", at, advice))
    torch.set_num_threads(choose_threads(config.threads))
    on_gpu = torch.cuda.is_available() and config.device in ("auto", "cuda", "gpu")
    images = torch.randn(config.batch_size, *data.image_shape, device="cuda" if on_gpu else "cpu")
    bfloat16 = resolve_precision(config.precision) == "bf16-mixed"
    return list(measure_layers(model, images, data.target.n_classes, bfloat16=bfloat16).propose(goal).at)


__all__ = ["Measured", "measure_layers", "settle_cut"]
