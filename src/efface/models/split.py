"""Cut any model at named layers into blocks, and join it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import CutError, did_you_mean, expected
from efface.models.block import Block
from efface.models.layers import canonical_names, containing, nearest_first, offered_names
from efface.models.partition import cut_order, partition
from efface.models.state import evaluating, reading
from efface.models.trace import outline


@dataclass(frozen=True, eq=False)
class SplitModel:
    """A model as a chain of blocks that share its parameters.

    Attributes:
        model: The original, whole.
        blocks: K blocks; each takes what the one before returns.
        at: The K-1 layers after which it is cut, in the order of the forward pass.
    """

    model: nn.Module
    blocks: tuple[Block, ...]
    at: tuple[str, ...]

    @property
    def extractor(self) -> Block:
        """The first block, Φ: images to features."""
        return self.blocks[0]

    @property
    def classifier(self) -> Block:
        """The last block, Ω: features to logits."""
        return self.blocks[-1]

    def forward(self, images: Tensor) -> Any:
        """Return the model's output, computed block after block."""
        return self.classifier(self._after(images, len(self.at)))

    __call__ = forward

    def features(self, images: Tensor, at: str | None = None) -> Tensor:
        """Return the output of a cut layer: of the first cut, or of the one named.

        Raises:
            CutError: The model is not cut there.
        """
        if at is not None and at not in self.at:
            raise CutError(expected("at", "a layer at which the model is cut", at, did_you_mean(at, self.at)))
        return self._after(images, self.at.index(at) + 1 if at is not None else 1)

    def train(self, mode: bool = True) -> SplitModel:
        """Put the model and its blocks into training mode, or out of it."""
        for module in (self.model, *self.blocks):
            module.train(mode)
        return self

    def eval(self) -> SplitModel:
        """Put the model and its blocks into evaluation mode."""
        return self.train(False)

    def join(self) -> nn.Module:
        """Return the original model, trained in place through its blocks."""
        return self.model

    def _after(self, images: Tensor, count: int) -> Tensor:
        """Return what the first ``count`` blocks make of images."""
        outputs = images
        for block, name in zip(self.blocks[:count], self.at, strict=False):
            outputs = block(outputs)
            if not isinstance(outputs, Tensor):
                raise CutError(f"`{name}` returns a {type(outputs).__name__}, not one tensor")
        return outputs


def split(model: nn.Module, at: str | Sequence[str], example: Tensor | None = None) -> SplitModel:
    """Cut a model after the named layers.

    The blocks hold the model's own submodules under their own names: training them trains the model, and the
    union of their state_dict keys is the model's. Each block picks the code of its own mode (training, evaluation).
    How it works, and which models it takes: ``docs/splitting.md``.

    Args:
        model: Any module whose forward takes one tensor; left as it is (mode, buffers, random state).
        at: Dotted names of submodules, as in ``model.named_modules()``. K-1 names give K blocks.
        example: ``[B, C, H, W]`` images. If given, the chain must give the model's output to the bit.

    Raises:
        CutError: The model can't be cut there: why, and where it can.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> parts = split(model, at="1")
        >>> parts.features(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
        >>> parts.join() is model
        True
    """
    names = (at,) if isinstance(at, str) else tuple(at)
    try:
        parts = cut(model, names)
        if example is not None:
            verify(parts, example)
    except CutError as error:
        raise CutError(_advice(model, names, str(error))) from error.__cause__
    return parts


def cut(model: nn.Module, names: Sequence[str]) -> SplitModel:
    """Cut as ``split`` does, but without a dry run, and with the bare reason in errors."""
    layers = canonical_names(model, names)
    opened = [module for name in layers for module in containing(model, name)]
    outlines = [outline(model, opened, training) for training in (True, False)]
    orders = {cut_order(traced.graph, layers) for traced in outlines}
    if len(orders) > 1:
        raise CutError("training and evaluation call the layers in different orders")
    order = orders.pop()
    graphs = [partition(traced.graph, order) for traced in outlines]
    blocks = tuple(Block(model, outlines, pair) for pair in zip(*graphs, strict=True))
    _check_parameters(blocks)
    given = dict(zip(layers, names, strict=True))
    return SplitModel(model, blocks, tuple(given[name] for name in order))


def verify(parts: SplitModel, example: Tensor) -> None:
    """Run the chain and the model in evaluation mode; raise CutError unless they agree to the bit."""
    with evaluating(parts.model):
        modes = [block.training for block in parts.blocks]
        try:
            with reading(example):
                whole = parts.model(example)
            chained = parts.eval()(example)
        finally:
            for block, training in zip(parts.blocks, modes, strict=True):
                block.train(training)
    if not isinstance(whole, Tensor):
        raise CutError(f"the model returns a {type(whole).__name__}, not one tensor of logits")
    if whole.shape != chained.shape or not torch.allclose(whole, chained, rtol=0, atol=0, equal_nan=True):
        raise CutError("on the example, the blocks one after the other don't give the model's output")


def _check_parameters(blocks: Sequence[Block]) -> None:
    """Refuse parameters in two blocks (both would update them) and blocks without any."""
    owners: dict[int, int] = {}
    for index, block in enumerate(blocks):
        for name, parameter in block.named_parameters():
            if owners.setdefault(id(parameter), index) != index:
                raise CutError(f"the parameter `{name}` is used on both sides of the cut")
        if not any(True for _ in block.parameters()):
            where = "before" if index == 0 else "after"
            raise CutError(f"there are no parameters {where} it" if len(blocks) == 2 else "a block has no parameters")


def _advice(model: nn.Module, names: Sequence[str], reason: str) -> str:
    """Say why a model can't be cut, and where it can."""
    kind = type(model).__name__
    message = expected("at", f"a layer at which {kind} can be cut", " → ".join(names), f"Reason: {reason.rstrip('.')}.")
    possible = [name for name in offered_names(model) if name not in names and _can_cut(model, name)]
    if not possible:
        need = "that takes one tensor passed from submodule to submodule"
        return f"{message} No other layer of {kind} can be cut: {need}."
    nearest = nearest_first(names[0] if names else "", possible)
    return f"{message} {did_you_mean(names[0] if names else '', nearest)} Try `efface ls layers MODEL`."


def _can_cut(model: nn.Module, name: str) -> bool:
    try:
        cut(model, (name,))
    except CutError:
        return False
    return True
