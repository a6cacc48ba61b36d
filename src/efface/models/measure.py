"""Where to cut: forward and backward time and activation memory of every candidate layer, and what follows from them.

Local learning keeps one block's activations at a time, so the largest block sets the peak; pipelined, each block has
its own core or stream, so the slowest block sets the pace. The best cut for the one is rarely the best for the other.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from efface.errors import ConfigError, CutError, did_you_mean, expected
from efface.models.points import cut_points
from efface.models.state import undisturbed

GOALS = {
    "speed": "the slowest block is as fast as can be: the pace of a pipeline",
    "memory": "the largest block keeps as little as can be: the peak of alternating training",
    "balance": "the least of both together, each as a multiple of its best",
}
"""What a cut can be proposed for."""


@dataclass(frozen=True)
class LayerCost:
    """What a model costs up to and including a layer, for one batch.

    Attributes:
        name: Dotted name, to be passed as ``at``.
        shape: Shape of the features, batch first.
        forward_s: Seconds of the forward pass.
        backward_s: Seconds of the backward pass through these layers.
        kept_bytes: What the forward pass keeps for the backward pass, parameters left out.
        feature_bytes: Size of the features.
    """

    name: str
    shape: tuple[int, ...]
    forward_s: float
    backward_s: float
    kept_bytes: int
    feature_bytes: int

    @property
    def seconds(self) -> float:
        """Forward and backward."""
        return self.forward_s + self.backward_s


@dataclass(frozen=True)
class Proposal:
    """A cut, and what it would bring.

    Attributes:
        at: Layers to cut after.
        slowest_s: Seconds of the slowest block, auxiliary network included: a pipeline's step.
        whole_s: Seconds of all blocks together, auxiliary networks left out: a step end to end.
        peak_bytes: The largest block's activations, with the features that it is given.
        whole_bytes: Activations of a step end to end.
    """

    at: tuple[str, ...]
    slowest_s: float
    whole_s: float
    peak_bytes: int
    whole_bytes: int

    @property
    def speedup(self) -> float:
        """Bound of the pipeline's speed, one core or stream per block, as a multiple of one core end to end."""
        return self.whole_s / self.slowest_s if self.slowest_s else 1.0

    @property
    def saving(self) -> float:
        """Share of the activations that alternating training does not keep at the same time."""
        return 1 - self.peak_bytes / self.whole_bytes if self.whole_bytes else 0.0


@dataclass(frozen=True)
class CutCosts:
    """Costs of a model's candidate layers.

    Attributes:
        layers: In the order of the forward pass.
        whole: Of the whole model; its name is empty.
    """

    layers: tuple[LayerCost, ...]
    whole: LayerCost

    def propose(self, goal: str = "speed", blocks: int = 2, auxiliary: Mapping[str, float] | None = None) -> Proposal:
        """Return the best cut into so many blocks.

        Args:
            goal: One of ``GOALS``.
            blocks: K, at least 2.
            auxiliary: Seconds of the auxiliary network at each layer; None: it costs nothing.

        Raises:
            ConfigError: The goal is unknown.
            CutError: There are fewer layers to cut at than cuts.
        """
        if goal not in GOALS:
            raise ConfigError(expected("at", "auto, auto:speed, auto:memory or auto:balance", f"auto:{goal}"))
        candidates = (cuts for cuts in combinations(self.layers, blocks - 1) if not _nested(cuts))
        found = [self._proposal(cuts, auxiliary or {}) for cuts in candidates]
        if not found:
            raise CutError(f"The model has {len(self.layers)} layers to cut at; {blocks} blocks need {blocks - 1}.")
        fastest = min(proposal.slowest_s for proposal in found) or 1.0
        smallest = min(proposal.peak_bytes for proposal in found) or 1
        score: dict[str, Callable[[Proposal], float]] = {
            "speed": lambda proposal: proposal.slowest_s,
            "memory": lambda proposal: proposal.peak_bytes,
            "balance": lambda proposal: proposal.slowest_s / fastest + proposal.peak_bytes / smallest,
        }
        return min(found, key=score[goal])

    def _proposal(self, cuts: Sequence[LayerCost], auxiliary: Mapping[str, float]) -> Proposal:
        ends = [LayerCost("", (), 0.0, 0.0, 0, 0), *cuts, self.whole]
        seconds = [after.seconds - before.seconds + auxiliary.get(after.name, 0.0) for before, after in pairwise(ends)]
        kept = [after.kept_bytes - before.kept_bytes + before.feature_bytes for before, after in pairwise(ends)]
        names = tuple(cut.name for cut in cuts)
        return Proposal(names, max(seconds), self.whole.seconds, max(kept), self.whole.kept_bytes)


def _nested(cuts: Sequence[LayerCost]) -> bool:
    """Whether one layer lies within another: to be cut inside, a module is opened, and is no layer any more."""
    return any(inner.name.startswith(f"{outer.name}.") for inner in cuts for outer in cuts)


def auto_goal(at: str | Sequence[str]) -> str | None:
    """Return the goal that ``auto`` or ``auto:GOAL`` names; None for named layers.

    Raises:
        ConfigError: The goal is unknown.

    Example:
        >>> auto_goal("auto"), auto_goal("auto:memory"), auto_goal("layer2"), auto_goal(["layer1", "layer2"])
        ('speed', 'memory', None, None)
    """
    name = at if isinstance(at, str) else (at[0] if len(at) == 1 else "")
    if name != "auto" and not name.startswith("auto:"):
        return None
    goal = name.partition(":")[2] or "speed"
    if goal not in GOALS:
        raise ConfigError(f"Unknown goal {goal!r} in `model.at`. {did_you_mean(goal, GOALS)}")
    return goal


def measure_cuts(model: nn.Module, images: Tensor, *, bfloat16: bool = False, repeats: int = 5) -> CutCosts:
    """Measure a model's candidate layers in one training step, on this machine as it is.

    Args:
        model: Left as it was; a copy is measured.
        images: ``[B, C, H, W]``, a batch of the size that will be trained with.
        bfloat16: Compute in bfloat16 where autocast does.
        repeats: Passes after two to warm up; the median of each time is taken. 0: times are left at 0.

    Raises:
        CutError: The model can't be cut anywhere.
    """
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), images.device)
    points = cut_points(model, images[:2].to(home))
    subject = copy.deepcopy(model).to(images.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images
    names = [point.name for point in points]
    with undisturbed(subject):
        subject.train()
        count = repeats + 2 if repeats else 0
        passes = [_timed(subject, images, names, bfloat16) for _ in range(count)][2:]
        kept = _kept(subject, images, names, bfloat16)
    forward = {name: median([one[0][name] for one in passes] or [0.0]) for name in [*names, ""]}
    rest = {name: median([one[1][name] for one in passes] or [0.0]) for name in [*names, ""]}
    layers = [
        LayerCost(name, kept[name][1], forward[name], rest[""] - rest[name], kept[name][0], kept[name][2])
        for name in names
    ]
    return CutCosts(tuple(layers), LayerCost("", (), forward[""], rest[""], kept[""][0], 0))


def activation_costs(model: nn.Module, images: Tensor, *, bfloat16: bool = False) -> CutCosts:
    """Return what ``measure_cuts`` does without the times, which are 0: memory needs no clock and no large batch.

    Args:
        model: Left as it was.
        images: ``[B, C, H, W]``; the bytes grow with B.
        bfloat16: Compute in bfloat16 where autocast does.
    """
    return measure_cuts(model, images, bfloat16=bfloat16, repeats=0)


def measure_module(module: nn.Module, features: Tensor, *, bfloat16: bool = False, repeats: int = 3) -> float:
    """Return the seconds of a forward and backward pass of a module that reads features, down to the features.

    Args:
        module: Left as it was; it gives a tensor, or a tuple whose first element is one.
        features: ``[B, ...]``.
        bfloat16: Compute in bfloat16 where autocast does.
        repeats: Passes after one to warm up; the median is taken.
    """
    subject, features = copy.deepcopy(module), features.detach().requires_grad_()
    subject.train()
    passes = []
    with undisturbed(subject):
        for _ in range(repeats + 1):
            begun = _now(features)
            with _autocast(features, bfloat16):
                output = subject(features)
            output = output[0] if isinstance(output, tuple) else output
            inputs = [features, *(p for p in subject.parameters() if p.requires_grad)]
            torch.autograd.grad(output.float().square().mean(), inputs, allow_unused=True)
            passes.append(_now(features) - begun)
    return median(passes[1:])


def _timed(
    model: nn.Module, images: Tensor, names: Sequence[str], bfloat16: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return seconds from the start of the forward pass to each layer's output, and of the backward pass down to it.

    The empty name stands for the whole of each pass.
    """
    forward: dict[str, float] = {}
    backward: dict[str, float] = {}
    begun = [0.0]

    def arrived(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            forward[name] = _now(images) - begun[0]
            output.register_hook(lambda _: backward.__setitem__(name, _now(images) - begun[0]))

        return hook

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_hook(arrived(name)).remove)
        begun[0] = _now(images)
        with _autocast(images, bfloat16):
            output = model(images)
        forward[""] = _now(images) - begun[0]
        loss = output.float().square().mean()
        begun[0] = _now(images)
        # Gradients are returned, not left in the parameters.
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        backward[""] = _now(images) - begun[0]
    return forward, backward


def _kept(
    model: nn.Module, images: Tensor, names: Sequence[str], bfloat16: bool
) -> dict[str, tuple[int, tuple[int, ...], int]]:
    """Return per layer: bytes kept for the backward pass so far, shape and bytes of its output."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), images)}
    seen: dict[int, Tensor] = {}
    found: dict[str, tuple[int, tuple[int, ...], int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Held in ``seen``, a tensor's address is not used again.
        if tensor.untyped_storage().data_ptr() not in own:
            seen.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())
        return tensor.detach()

    def total() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())

    def arrived(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] = total(), tuple(output.shape), output.numel() * output.element_size()

        return hook

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_hook(arrived(name)).remove)
        with saved_tensors_hooks(pack, lambda tensor: tensor), _autocast(images, bfloat16):
            output = model(images)
        found[""] = total(), tuple(output.shape), output.numel() * output.element_size()
    return found


def _autocast(images: Tensor, bfloat16: bool) -> AbstractContextManager[Any]:
    return torch.autocast(images.device.type, torch.bfloat16) if bfloat16 else nullcontext()


def _now(images: Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter()
