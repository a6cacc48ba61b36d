"""An outline of a model's forward pass: a torch.fx graph in which only chosen modules are opened.

Tracing everything would fail on most models, on the first ``if`` over a shape. To cut at a layer, only the modules
that contain it need to be opened; every other submodule stays one node, whatever its code does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from efface.errors import CutError
from efface.models.state import undisturbed


@dataclass(frozen=True)
class Outline:
    """A traced forward pass.

    Attributes:
        graph: Its operations in order; a submodule that was not opened is one ``call_module`` node.
        members: Submodules, parameters, buffers and constants that the graph names, by dotted name.
    """

    graph: fx.Graph
    members: dict[str, Any]


def outline(model: nn.Module, opened: Iterable[nn.Module], training: bool) -> Outline:
    """Trace ``model`` in one mode, opening ``opened`` and the model itself; the model is left as it was.

    Raises:
        CutError: The code of an opened module can't be traced, with the reason.
    """
    opened = [model, *opened]
    tracer = _OutlineTracer(opened)
    with undisturbed(model), _attributes_kept(model.modules()):
        for module in model.modules():
            module.training = training
        random_state = torch.get_rng_state()
        try:
            graph = tracer.trace(model)
        except Exception as error:  # Tracing runs the user's code on proxies: it may raise anything.
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CutError(f"the code around it can't be traced: {reason[0].rstrip('.')}") from error
        if not torch.equal(torch.get_rng_state(), random_state):
            raise CutError("the code around it draws random numbers that a trace would freeze")
        members = {
            str(node.target): _member(model, str(node.target))
            for node in graph.nodes
            if node.op in ("call_module", "get_attr")
        }
    return Outline(graph, members)


class _OutlineTracer(fx.Tracer):
    """Opens the given modules only. Parameters and buffers are read by name, so that the blocks share them."""

    def __init__(self, opened: Iterable[nn.Module]):
        super().__init__()
        self._opened = {id(module) for module in opened}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        """Keep whatever is not opened as one node."""
        return id(m) not in self._opened

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:  # noqa: ARG002
        """Return a proxy for a parameter or a buffer of the model, and anything else as it is."""
        if not isinstance(attr_val, Tensor):
            return attr_val
        for name, tensor in (*self.root.named_parameters(), *self.root.named_buffers()):
            if tensor is attr_val:
                if name not in parameter_proxy_cache:
                    parameter_proxy_cache[name] = self.create_proxy(
                        "get_attr", name, (), {}, proxy_factory_fn=lambda node: _TensorProxy(node, self, attr_val)
                    )
                return parameter_proxy_cache[name]
        return attr_val

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace one input and leave the other arguments at their defaults (proxies would defeat ``is None``)."""
        assert is_module
        assert concrete_args is None
        name, *others = list(inspect.signature(root_fn).parameters.values())[1:]
        required = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if required:
            raise TypeError(f"the model needs more than one input: {', '.join([name.name, *required])}")
        return root_fn, [self.root, self.create_proxy("placeholder", name.name, (), {})]


class _TensorProxy(fx.Proxy):
    """A proxy of a known tensor: what does not change in training may decide the control flow."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor):
        super().__init__(node, tracer)
        self.shape, self.ndim = tensor.shape, tensor.ndim
        self.dim, self.size, self.numel = tensor.dim, tensor.size, tensor.numel


@contextmanager
def _attributes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Take back what tracing leaves on modules: constants of the tracer, proxies stored by the user's code."""
    saved = [(module, dict(module.__dict__)) for module in modules]
    try:
        yield
    finally:
        for module, attributes in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)


def _member(model: nn.Module, name: str) -> Any:
    """Return what a dotted name stands for."""
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)
