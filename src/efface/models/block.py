"""A block: one part of a cut model, sharing the model's submodules and tensors under their own names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx, nn

from efface.models.trace import Outline


class Block(nn.Module):
    """Runs one part of a model.

    Submodules are the model's own objects, so that training a block trains the model. Parameters and buffers that
    the opened modules hold themselves (a class token) are registered under their own names and follow the model's.

    Args:
        model: The model that was cut.
        outlines: Its outlines in training and in evaluation mode.
        graphs: This part's graph in training and in evaluation mode.
    """

    def __init__(self, model: nn.Module, outlines: Sequence[Outline], graphs: Sequence[fx.Graph]):
        super().__init__()
        self._loose: list[tuple[nn.Module, nn.Module, str]] = []
        for traced, graph in zip(outlines, graphs, strict=True):
            for node in graph.nodes:
                if node.op in ("call_module", "get_attr"):
                    self._share(model, str(node.target), traced.members[str(node.target)])
        self._programs = tuple(_compile(graph) for graph in graphs)
        for holder in (self, *(module for module in self.modules() if isinstance(module, _Holder))):
            holder.training = model.training

    def forward(self, inputs: Tensor) -> Any:
        """Return what the next block takes: a tensor; for the last block, the model's output."""
        self._follow()
        return self._programs[0 if self.training else 1](self, inputs)

    def _share(self, model: nn.Module, name: str, member: Any) -> None:
        """Register a member of the model under its own dotted name."""
        *path, leaf = name.split(".")
        holder: nn.Module = self
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, _Holder())
            holder = holder.get_submodule(part)
            if not isinstance(holder, _Holder):
                return  # a shared submodule, which has the member already
        if isinstance(member, nn.Module):
            holder.add_module(leaf, member)
            return
        owner = model.get_submodule(".".join(path))
        if isinstance(member, nn.Parameter):
            holder.register_parameter(leaf, member)
        elif isinstance(member, Tensor):
            kept = leaf in owner._buffers and leaf not in owner._non_persistent_buffers_set
            holder.register_buffer(leaf, member, persistent=kept)
        else:
            setattr(holder, leaf, member)
        if hasattr(owner, leaf):
            self._loose.append((owner, holder, leaf))

    def _follow(self) -> None:
        """Take over tensors that the model has replaced since: moving a module replaces its buffers."""
        for owner, holder, name in self._loose:
            current = getattr(owner, name)
            if getattr(holder, name) is not current:
                setattr(holder, name, current)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Block:
        """Move or convert the block, and the model with it."""
        self._follow()
        super()._apply(fn, recurse)
        for owner, holder, name in self._loose:
            setattr(owner, name, getattr(holder, name))
        return self


class _Holder(nn.Module):
    """Stands in for an opened module: gives its members their dotted names."""


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """Return a graph as a function of (module, input)."""
    code = graph.python_code(root_module="self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<block of a cut model>", "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward
