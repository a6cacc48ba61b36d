"""Names of a model's layers: checked, and those worth offering as cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from torch import nn

from efface.errors import CutError


def canonical_names(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return each layer's first name in ``model.named_modules()``, which tracing uses.

    Raises:
        CutError: No name is given, or one is unknown or given twice.
    """
    if not names:
        raise CutError("no layer is named")
    first = {id(module): name for name, module in model.named_modules()}
    known = {name: first[id(module)] for name, module in model.named_modules(remove_duplicate=False) if name}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CutError(f"{type(model).__name__} has no submodule {', '.join(map(repr, unknown))}")
    found = tuple(known[name] for name in names)
    if len(set(found)) < len(found):
        raise CutError("a layer is named more than once")
    return found


def containing(model: nn.Module, name: str) -> list[nn.Module]:
    """Return the submodules that contain a layer, outermost first.

    Example:
        >>> inner = nn.Sequential(nn.ReLU())
        >>> containing(nn.Sequential(inner), "0.0") == [inner]
        True
    """
    parts = name.split(".")
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts))]


def offered_names(model: nn.Module) -> Iterator[str]:
    """Yield the layers worth offering as cuts: children, and the blocks that sequences and stages are made of.

    Example:
        >>> list(offered_names(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))))
        ['0', '1', '1.0']
    """
    yield from _offered(model, "", depth=1)


def nearest_first(name: str, names: Sequence[str]) -> list[str]:
    """Put the layers that contain one (which may not exist), then those with like names, before the others.

    Example:
        >>> nearest_first("layer2.7", ["stem", "layer1", "layer2", "layer2.0"])
        ['layer2', 'layer2.0', 'layer1', 'stem']
    """
    outer = [other for other in reversed(names) if name.startswith(f"{other}.")]
    close = get_close_matches(name, names, n=5)
    top = name.split(".")[0]
    related = [other for other in names if other.split(".")[0] == top]
    return list(dict.fromkeys([*outer, *close, *related, *names]))


def _offered(module: nn.Module, prefix: str, depth: int) -> Iterator[str]:
    for name, child in module.named_children():
        if type(child) not in (nn.ModuleList, nn.ModuleDict):  # plain lists have no forward
            yield prefix + name
        if _opens(child, depth):
            yield from _offered(child, f"{prefix}{name}.", depth + 1)


def _opens(module: nn.Module, depth: int) -> bool:
    """Whether a module is made of blocks, rather than being one: a sequence, or a stage with a sequence of blocks."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        top = type(module) is nn.Sequential and depth == 1
        return top or any(_composite(child) for child in module)
    return any(_repeats_blocks(child) for child in module.children())


def _repeats_blocks(module: nn.Module) -> bool:
    """Whether a module is a sequence of composite blocks of one class (convolution-norm-activation is no block)."""
    if not isinstance(module, (nn.Sequential, nn.ModuleList)) or not len(module):
        return False
    alike = len({type(child) for child in module}) == 1
    return alike and all(_composite(child) and not isinstance(child, nn.Sequential) for child in module)


def _composite(module: nn.Module) -> bool:
    """Whether a module has parameters in submodules."""
    return any(True for child in module.children() for _ in child.parameters())
