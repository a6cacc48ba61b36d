"""Where a model can be cut: every such layer, with what lies before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from efface.errors import CutError
from efface.models.cost import count_parameters, counting
from efface.models.layers import offered_names
from efface.models.split import cut, verify
from efface.models.state import evaluating


@dataclass(frozen=True)
class CutPoint:
    """A layer at which a model can be cut.

    Attributes:
        name: Dotted name, to be passed as ``at``.
        kind: Class of the layer.
        shape: Shape of the features for the example, batch first.
        parameters: Number of parameters up to and including the layer.
        flops_share: Fraction of the model's operations up to and including the layer, 0 to 1.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops_share: float


def cut_points(model: nn.Module, example: Tensor) -> list[CutPoint]:
    """Return the layers at which a model can be cut, in the order of the forward pass.

    Looked at are the model's children and what sequences and stages are made of; ``split`` takes deeper names too.
    Each layer listed was cut, and the blocks gave the model's output on the example to the bit. A layer whose
    output is that of a layer containing it (the last block of a stage) is listed under the outer name alone.

    Args:
        model: Left as it was.
        example: ``[B, C, H, W]`` images; a small batch will do.

    Raises:
        CutError: There is none; with the reason of the first layer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [(point.name, point.shape, point.parameters) for point in cut_points(model, torch.zeros(1, 4))]
        [('0', (1, 3), 15), ('1', (1, 3), 15)]
    """
    run = _observe(model, example, list(offered_names(model)))
    points, refused = [], None
    for name, seen in run.layers.items():
        if run.is_repeated(name) or seen.output.shape[:1] != example.shape[:1]:
            continue
        try:
            parts = cut(model, (name,))
            verify(parts, example)
        except CutError as error:
            refused = refused or f"{name}: {error}"
            continue
        share = seen.flops / run.flops if run.flops else 0.0
        kind, shape = type(model.get_submodule(name)).__name__, tuple(seen.output.shape)
        points.append(CutPoint(name, kind, shape, count_parameters(parts.extractor), share))
    if not points:
        why = f" The first tried, {refused}" if refused else ""
        raise CutError(f"{type(model).__name__} has no layer at which it can be cut.{why}")
    return points


@dataclass(frozen=True)
class _Seen:
    """A layer's output, and the operations counted when it was there."""

    output: Tensor
    flops: int


@dataclass
class _Run:
    """What one forward pass showed, layers in the order in which they finished."""

    layers: dict[str, _Seen] = field(default_factory=dict)
    flops: int = 0

    def is_repeated(self, name: str) -> bool:
        """Whether an outer layer returned the very same tensor."""
        output = self.layers[name].output
        parts = name.split(".")
        outer = (".".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(other in self.layers and self.layers[other].output is output for other in outer)


def _observe(model: nn.Module, example: Tensor, names: list[str]) -> _Run:
    """Run the model once and note the tensors that the named layers return."""
    run = _Run()
    with evaluating(model), counting() as counter:

        def note(name: str, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 2:
                run.layers[name] = _Seen(output, counter.get_total_flops())

        with _hooks(model, names, note):
            model(example)
        run.flops = counter.get_total_flops()
    return run


@contextmanager
def _hooks(model: nn.Module, names: list[str], note: Callable[[str, Any], None]) -> Iterator[None]:
    """Call ``note(name, output)`` after each named layer; the hooks are taken off again."""
    with ExitStack() as stack:
        for name in names:
            hook = model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: note(name, out))
            stack.callback(hook.remove)
        yield
