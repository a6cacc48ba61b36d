"""The layer map: what each block of a model lets a cheap attacker read, from the input to the logits.

One pass reads summaries of all layers; the probe of ``probe`` attacks each. In a chain every layer is a function of the
one before, so an attacker of a deeper layer is an attacker of a shallower one too: what a deep layer gives away is a
lower bound for all layers before it (``implied``). An attribute that seems to come back was never gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from efface.audit.features import INPUT, LOGITS, FeatureSet, check_layers, extract_layers, forward
from efface.audit.figures import Figure
from efface.audit.floors import floors, label_guess
from efface.audit.intervals import excess_interval
from efface.audit.metrics import excess_leakage
from efface.audit.probe import COMPONENTS, Probing, Reading, condense, difference, plain, read, read_each, tools
from efface.audit.store import summarise
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS, Column
from efface.errors import CutError
from efface.models.points import CutPoint, cut_points
from efface.models.state import evaluating

PIXELS = 32
"""Widest input that is attacked, in pixels; wider ones are averaged over 2×2 pixels until they fit."""
MOST, FEWEST = 8, 6
"""Points between the two ends: at most so many, and so many if stages are fewer."""


@dataclass(frozen=True)
class LayerPoint:
    """What one layer lets a probe read.

    Attributes:
        layer: Its name; ``input`` and ``logits`` are the ends.
        attacker: The one that validation picked.
        accuracy: On the audited people.
        bits: I(h;z) from below.
        excess: Accuracy less the label floor, people resampled together.
        implied: The highest accuracy here or at any deeper layer: what is shown to be readable here.
        original: Accuracy at the same layer of the original, or None.
        original_bits: Bits at the same layer of the original, or None.
        excess_leakage: (accuracy − floor) / (original − floor), clipped at 0; None where the original's layer is within
            noise of the floor, or there is none.
        comes_back: Whether a probe reads more here than at the released layer before it, by more than noise.
    """

    layer: str
    attacker: str
    accuracy: Figure
    bits: Figure
    excess: Figure
    implied: float
    original: Figure | None = None
    original_bits: Figure | None = None
    excess_leakage: Figure | None = None
    comes_back: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return plain(self)


@dataclass(frozen=True)
class LayerMap:
    """An attribute from the input to the logits.

    Attributes:
        attribute: Its column.
        n: People read.
        floor: The label floor.
        majority: Accuracy of always naming the most frequent class.
        released: The layer that is released, or None.
        points: In the order of the forward pass.
    """

    attribute: str
    n: int
    floor: float
    majority: float
    released: str | None
    points: tuple[LayerPoint, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks for the report."""
        back = [point.layer for point in self.points if point.comes_back]
        if not back:
            return ()
        where = ", ".join(f"`{name}`" for name in back)
        return (
            f"Probes read more of {self.attribute} behind `{self.released}`, at {where}, than at it. What is released "
            f"holds at least as much: the attackers at `{self.released}` missed it.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("attribute", "n", "floor", "majority", "released")
        points = [point.to_dict() for point in self.points]
        return {**{name: getattr(self, name) for name in names}, "points": points, "warnings": list(self.warnings)}


def layer_points(
    model: nn.Module, example: Tensor, at: Sequence[str] = (), most: int = MOST, fewest: int = FEWEST
) -> tuple[str, ...]:
    """Return the layers worth mapping, in the order of the forward pass, between ``input`` and ``logits``.

    Of layers without operations between them (normalisation, activation, pooling) the last stands for all, unless the
    number of axes changes. Outer layers (stages) go first; where they are few (transformers), blocks inside them join,
    evenly by operations. Of a model that ``split`` can't cut, only the layers in ``at`` are mapped.

    Args:
        model: Left as it was.
        example: ``[B, C, H, W]`` images; a small batch will do.
        at: Layers that are mapped in any case.
        most: Largest number of layers between the ends, those in ``at`` aside.
        fewest: So many layers at least, if the model has them.

    Raises:
        CutError: The model has no layer of a name in ``at``, or does not call it.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> layer_points(model, torch.zeros(2, 3, 8, 8))
        ('input', '1', '2', 'logits')
    """
    check_layers(model, [*at, LOGITS])
    order = _ordered(model, example)
    try:
        points = {point.name: point for point in cut_points(model, example)}
    except CutError:  # then those that are named are mapped
        points = {}
    kept = _representatives(list(points.values()))
    outer = [point for point in kept if "." not in point.name]
    inner = [point for point in kept if "." in point.name]
    chosen = _evenly(outer, most) if len(outer) >= fewest else [*outer, *_evenly(inner, most - len(outer))]
    names = {point.name for point in chosen} | set(at) - {INPUT, LOGITS}
    if idle := names - set(order):
        raise CutError(f"The model does not call its layer {', '.join(sorted(idle))} in a forward pass.")
    return (INPUT, *(name for name in order if name in names), LOGITS)


def extract_summaries(
    model: nn.Module,
    dataset: AttributeDataset,
    layers: Sequence[str],
    splits: Sequence[str] = SPLITS,
    *,
    batch_size: int = 128,
    precision: str = "auto",
    cache: Path | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, FeatureSet]:
    """Summarise what layers release of every image, in one pass: a hundredth of the disk of whole maps.

    Of maps and tokens ``store.summarise`` is kept, of the input an image of at most 32 pixels.

    Args:
        model: Left as it was.
        dataset: Images and labels.
        layers: Named layers, ``input`` or ``logits``.
        splits: Splits to read; the first one standardises the features.
        batch_size: Images per forward pass.
        precision: Of the forward pass.
        cache: Folder that keeps features between audits, or None.
        tick: Called with the number of images done.

    Raises:
        AuditError: Features are not finite.
        CutError: The model has no such layer, or it does not return one tensor once.
    """
    check_layers(model, layers)
    watched = Summaries(model, layers, precision)
    names = watched.tap_names
    found = extract_layers(watched, dataset, list(names.values()), splits, batch_size, precision, cache, tick)
    return {layer: renamed(found[names[layer]], layer) for layer in layers}


def renamed(features: FeatureSet, layer: str) -> FeatureSet:
    """The same features under the layer's own name; temporary files stay until both are gone."""
    named = replace(features, layer=layer)
    weakref.finalize(named, lambda *_: None, features)
    return named


class Summaries(nn.Module):
    """A model in which the summaries of layers are layers of their own, so that they can be extracted as such."""

    def __init__(self, model: nn.Module, layers: Sequence[str], precision: str = "auto"):
        super().__init__()
        self.model, self.layers, self.precision = model, tuple(layers), precision
        self.taps = nn.ModuleList(nn.Identity() for _ in layers)

    @property
    def tap_names(self) -> dict[str, str]:
        """The layer that holds each layer's summary."""
        return {layer: f"taps.{place}" for place, layer in enumerate(self.layers)}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        released, logits = forward(self.model, images, self.layers, self.precision)
        for tap, layer in zip(self.taps, self.layers, strict=True):
            tap(smaller(released[layer]) if layer == INPUT else summarise(released[layer]))
        return logits

    def extra_repr(self) -> str:
        """Return the layers: they decide what is kept in a cache."""
        return f"summaries of {', '.join(self.layers)}"


def smaller(images: Tensor) -> Tensor:
    """Average 2×2 pixels until an image has at most 32 a side."""
    while min(images.shape[2:]) > PIXELS:
        images = F.avg_pool2d(images, 2)
    return images


def layer_map(
    sets: Mapping[str, FeatureSet],
    original: Mapping[str, FeatureSet] | None,
    column: Column,
    target: str,
    probing: Probing | None = None,
    released: str | None = None,
) -> LayerMap:
    """Probe an attribute at every layer of the audited model and of the original.

    Args:
        sets: Features by layer, in the order of the forward pass; whole ones are condensed.
        original: The original's, of the same layers and people; None: there is none.
        column: The attribute.
        target: Column of the main task, for the label floor.
        probing: Who probes. In all ``probing.steps`` steps of its progress bar for each set, ``input`` of the original
            excepted: the images are the same.
        released: The layer that is released, if it is one of these.
    """
    probing = probing or Probing()
    asked = [(one, f"{layer} of the model") for layer, one in sets.items()]
    # The images of the two are the same.
    then = {layer: one for layer, one in (original or {}).items() if not (layer == INPUT and layer in sets)}
    asked += [(one, f"{layer} of the original") for layer, one in then.items()]
    people = len(next(iter(sets.values())).labels["train"][column.name])

    def seconds() -> float:
        return probing.seconds(people, COMPONENTS, column.n_classes)

    def one(features: FeatureSet, of: str) -> Reading:
        return read(condense(features), column, probing, of)

    readings = iter(read_each([partial(one, *each) for each in asked], seconds, probing))
    after = {layer: next(readings) for layer in sets}
    before = {layer: next(readings) if layer in then else after[layer] for layer in original or {}}
    first = next(iter(sets.values())).labels[probing.split]
    known = first[column.name] >= 0
    y, z = first[target][known], first[column.name][known]
    found, by_label = floors(y, z, column.n_classes), label_guess(y, z, column.n_classes) == z
    points, implied = [], 0.0
    for layer in reversed(after):
        implied = max(implied, float(after[layer].correct.mean()))
        back = _comes_back(after, layer, released, probing)
        points.append(_point(layer, after[layer], before.get(layer), by_label, implied, back, probing))
    points.reverse()
    return LayerMap(column.name, len(z), found.label, found.majority, released, tuple(points))


def _point(
    layer: str,
    after: Reading,
    before: Reading | None,
    by_label: Bool[np.ndarray, " n"],
    implied: float,
    comes_back: bool,
    probing: Probing,
) -> LayerPoint:
    how, floor = probing.how, float(by_label.mean())
    accuracy, excess = after.accuracy(how), difference(after.correct, by_label, how)
    leaked = None
    if before is not None and difference(before.correct, by_label, how).ci[0] > 0:
        value = excess_leakage(accuracy.value, before.accuracy(how).value, floor)
        interval = excess_interval(after.correct, before.correct, by_label, *tools(how))
        leaked = None if value is None else Figure(value, interval)
    return LayerPoint(
        layer=layer,
        attacker=after.attacker,
        accuracy=accuracy,
        bits=after.information(how),
        excess=excess,
        implied=implied,
        original=None if before is None else before.accuracy(how),
        original_bits=None if before is None else before.information(how),
        excess_leakage=leaked,
        comes_back=comes_back,
    )


def _comes_back(after: Mapping[str, Reading], layer: str, released: str | None, probing: Probing) -> bool:
    """Whether more is read at a layer behind the released one than at it, on the same people, by more than noise."""
    order = list(after)
    if released not in order or order.index(layer) <= order.index(released):
        return False
    # One of so many layers behind the released one would differ by chance.
    how = probing.how.widened(len(order) - 1 - order.index(released))
    return difference(after[layer].correct, after[released].correct, how).ci[0] > 0


def _representatives(points: Sequence[CutPoint]) -> list[CutPoint]:
    """The last of each run of layers with no operations between them and as many axes."""
    groups: dict[tuple[float, int], CutPoint] = {}
    for point in points:
        groups[round(point.flops_share, 9), len(point.shape)] = point
    return list(groups.values())


def _evenly(points: Sequence[CutPoint], most: int) -> list[CutPoint]:
    """At most so many of the points, evenly spaced, both ends included."""
    if len(points) <= most:
        return list(points)
    if most < 2:
        return list(points[-1:])[:most]
    return [points[round(place)] for place in np.linspace(0, len(points) - 1, most)]


def _ordered(model: nn.Module, example: Tensor) -> list[str]:
    """Names of all layers that run, in the order in which they finish."""
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules(remove_duplicate=False)
        if name
    ]
    try:
        with evaluating(model):
            forward(model, example, ())
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))
