"""Partition of an outline into consecutive graphs, each fed by one tensor alone."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence

from torch import fx

from efface.errors import CutError

_RANDOM = re.compile(r"rand.*|.*dropout.*|(normal|uniform|bernoulli|multinomial|poisson|exponential)_?")


def cut_order(graph: fx.Graph, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the order in which the forward pass calls them.

    Raises:
        CutError: A layer is not called, called more than once, or gives a tuple.
    """
    targets = [node.target for node in graph.nodes if node.op == "call_module"]
    for name in names:
        calls = targets.count(name)
        if not calls:
            raise CutError(f"the forward pass never calls `{name}`, or not as a module")
        if calls > 1:
            raise CutError(f"the forward pass calls `{name}` {calls} times")
    return tuple(sorted(names, key=targets.index))


def partition(graph: fx.Graph, names: Sequence[str]) -> list[fx.Graph]:
    """Cut after the named ``call_module`` nodes; graph k+1 takes what graph k returns.

    Every operation goes to the graph of the last cut that it depends on. What does not depend on the input (a
    parameter, arithmetic on it) is repeated wherever it is used; the batch size is read from the features.

    Args:
        graph: An outline.
        names: Called layers in the order of ``cut_order``.

    Raises:
        CutError: Something other than the layers' outputs crosses a cut.
    """
    cuts = [node for name in names for node in graph.nodes if node.op == "call_module" and node.target == name]
    stages = _stages(graph, cuts)
    used_by = _users_of_constants(graph, stages)
    return [_stage_graph(graph, stage, cuts, stages, used_by) for stage in range(len(cuts) + 1)]


def _stages(graph: fx.Graph, cuts: Sequence[fx.Node]) -> dict[fx.Node, int | None]:
    """Number each node by the last cut it depends on; None does not depend on the input."""
    stages: dict[fx.Node, int | None] = {}
    passed = 0
    crossing: list[fx.Node] = []
    for node in graph.nodes:
        feeds = {source: _stage_after(source, stages, cuts) for source in node.all_input_nodes}
        known = [stage for stage in feeds.values() if stage is not None]
        if node.op == "placeholder":
            stages[node] = 0
        elif _readable_from_features(node):
            stages[node] = None
        elif not known and _has_effects(node):
            stages[node] = passed
        else:
            stages[node] = max(known, default=None)
            crossing += [source for source, stage in feeds.items() if stage is not None and stage < max(known)]
        if node in cuts:
            _check_cut(node, cuts.index(node), stages[node])
            passed += 1
        if node.op == "output" and stages[node] != len(cuts):
            raise CutError(f"the model's output does not depend on `{cuts[-1].target}`")
    if crossing:
        values = ", ".join(dict.fromkeys(_describe(node) for node in crossing))
        raise CutError(f"more than its output crosses the cut: {values} is also used after it")
    return stages


def _stage_after(node: fx.Node, stages: dict[fx.Node, int | None], cuts: Sequence[fx.Node]) -> int | None:
    """Stage of whoever reads a node: the next one if the node is a cut."""
    stage = stages[node]
    return stage + 1 if stage is not None and node in cuts else stage


def _check_cut(node: fx.Node, index: int, stage: int | None) -> None:
    if stage != index:
        why = "does not depend on the input" if stage is None else "does not depend on the cut before it"
        raise CutError(f"`{node.target}` {why}")
    users = list(node.users)
    if users and all(user.target is operator.getitem and isinstance(user.args[1], int) for user in users):
        raise CutError(f"`{node.target}` returns a tuple, not one tensor")


def _users_of_constants(graph: fx.Graph, stages: dict[fx.Node, int | None]) -> dict[fx.Node, set[int]]:
    """Stages that need each node which does not depend on the input."""
    used_by: dict[fx.Node, set[int]] = {}
    for node in reversed(graph.nodes):
        if stages[node] is None:
            needs = [used_by.get(user, set()) if stages[user] is None else {stages[user]} for user in node.users]
            used_by[node] = {stage for need in needs for stage in need if stage is not None}
    return used_by


def _stage_graph(
    graph: fx.Graph,
    stage: int,
    cuts: Sequence[fx.Node],
    stages: dict[fx.Node, int | None],
    used_by: dict[fx.Node, set[int]],
) -> fx.Graph:
    """Copy the nodes of one stage, in their order, into a graph of its own."""
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if stage:
        entry = piece.placeholder("features")
        # The first operation may write in place, and the features are also the auxiliary network's.
        copies[cuts[stage - 1]] = entry = piece.call_method("clone", (entry,))
    for node in graph.nodes:
        if node.op == "output":
            continue
        if stages[node] == stage or stage in used_by.get(node, ()):
            if _readable_from_features(node) and not all(source in copies for source in node.all_input_nodes):
                copies[node] = _read(piece, entry, node)
            else:
                copies[node] = piece.node_copy(node, copies.__getitem__)
            if node.op == "placeholder":
                entry = copies[node]
    last = cuts[stage] if stage < len(cuts) else graph.output_node().args[0]
    piece.output(fx.node.map_arg(last, copies.__getitem__))
    piece.lint()
    return piece


def _readable_from_features(node: fx.Node) -> bool:
    """Whether a node is the batch size or the device of a tensor, which the features have as well."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return False
    if node.target is getattr:
        return node.args[1] == "device"
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,) and _is_batch(source)
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    return _is_shape(source) and _is_batch(source.args[0])


def _is_shape(node: fx.Node) -> bool:
    """Whether a node is ``x.shape`` or ``x.size()``."""
    is_size = node.op == "call_method" and node.target == "size" and len(node.args) == 1
    return is_size or (node.target is getattr and node.args[1] == "shape")


def _is_batch(node: object) -> bool:
    """Whether a value's first dimension may be taken for the batch: the input, or what a submodule returned."""
    return isinstance(node, fx.Node) and node.op in ("placeholder", "call_module")


def _read(piece: fx.Graph, entry: fx.Node, node: fx.Node) -> fx.Node:
    """Read the batch size or the device from a block's own input."""
    if node.target is getattr:
        return piece.call_function(getattr, (entry, "device"))
    return piece.call_method("size", (entry, 0))


def _has_effects(node: fx.Node) -> bool:
    """Whether a node may hold state or draw random numbers, and so must stay where it is."""
    name = getattr(node.target, "__name__", str(node.target))
    return node.op == "call_module" or (node.op != "get_attr" and _RANDOM.fullmatch(name) is not None)


def _describe(node: fx.Node) -> str:
    """Name a value in the user's words."""
    if node.op == "placeholder":
        return "the model's input"
    if node.op == "call_module":
        return f"the output of `{node.target}`"
    sources = " and ".join(_describe(source) for source in node.all_input_nodes if source.op != "get_attr")
    operation = getattr(node.target, "__name__", str(node.target))
    operation = str(node.args[1]) if node.target is getattr else operation
    return f"`{operation}` of {sources}" if sources and len(sources) < 80 else f"a result of `{operation}`"
