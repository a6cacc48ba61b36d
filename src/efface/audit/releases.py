"""What is released: features, logits or probabilities; once, or several times and averaged by the attacker.

A model that answers for several views or draws of an image is a model again, ``Averaged``: it is extracted as any
other, in one pass, into the same store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from efface.audit.features import INPUT, LOGITS, FeatureSet, check_layers, device_of, extract, forward
from efface.audit.layers import renamed
from efface.audit.store import stored_from_arrays
from efface.audit.threat import VIEWS, Releases
from efface.data.batches import normalised
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS
from efface.errors import AuditError, did_you_mean, expected
from efface.models.state import evaluating

STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Directions (down, right) in which augmented images are shifted; each as it is and mirrored."""
RELEASED = "released"


def extract_releases(
    model: nn.Module,
    dataset: AttributeDataset,
    at: str,
    releases: Releases,
    splits: Sequence[str] = SPLITS,
    *,
    batch_size: int = 256,
    precision: str = "auto",
    cache: Path | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> FeatureSet:
    """Compute the average of what a model releases of each image: features at a layer, and logits.

    Args:
        model: Left as it was.
        dataset: Images and labels.
        at: Named layer, ``input`` or ``logits``.
        releases: How many, and how they differ; one release is ``features.extract``.
        splits: Splits to read; the first one standardises the features.
        batch_size: Images per forward pass.
        precision: Of the forward pass.
        cache: Folder that keeps features between audits, or None.
        tick: Called with the number of images done.

    Raises:
        AuditError: The encoder is said to be stochastic, but answers an image twice in the same way; images can't be
            shifted so far; features are not finite.
        CutError: The model has no such layer, or it does not return one tensor once.
    """
    if releases.kind == "one":
        return extract(model, dataset, at, splits, batch_size, precision, cache, tick)
    check_layers(model, [at])
    _check_shift(releases, dataset)
    averaged = Averaged(model, at, releases, precision)
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(releases.seed)
        if releases.kind == "stochastic":
            _check_differs(averaged, dataset, splits[0], device)
        found = extract(averaged, dataset, RELEASED, splits, batch_size, precision, cache, tick)
    return renamed(found, at)


class Averaged(nn.Module):
    """A model that answers with the average over several views or draws of an image.

    The average of the features is the output of its layer ``released``, that of the logits its own.

    Args:
        model: Shared, not copied.
        at: Named layer, ``input`` or ``logits``.
        releases: How many, and how they differ.
        precision: Of the forward pass.
    """

    def __init__(self, model: nn.Module, at: str, releases: Releases, precision: str = "auto"):
        super().__init__()
        self.model, self.at, self.releases, self.precision = model, at, releases, precision
        self.released = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean logits."""
        features: Tensor | None = None
        logits: Tensor | None = None
        for view, mirrored in self.views(images):
            found, answer = forward(self.model, view, (self.at,), self.precision)
            # A mirrored image has (nearly) the mirrored map: turned back, the two are about the same places.
            own = found[self.at].flip(-1) if mirrored and found[self.at].ndim == 4 else found[self.at]
            features = own if features is None else features + own
            logits = answer if logits is None else logits + answer
        assert features is not None
        assert logits is not None
        self.released(features / self.releases.draws)
        return logits / self.releases.draws

    def views(self, images: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Yield the images as often as they are released, and whether they are mirrored."""
        if self.releases.kind != "augmented":
            yield from ((images, False) for _ in range(self.releases.draws))
            return
        places = [(step, mirrored) for step in STEPS for mirrored in (False, True)]
        for (down, right), mirrored in places[: self.releases.draws]:
            moved = shifted(images, down * self.releases.shift, right * self.releases.shift)
            yield (moved.flip(-1) if mirrored else moved), mirrored

    def train(self, mode: bool = True) -> Averaged:
        """Put the model into a mode; dropout that is part of the release stays on."""
        super().train(mode)
        if self.releases.dropout:
            for module in self.model.modules():
                if isinstance(module, _DropoutNd):
                    module.training = True
        return self

    def extra_repr(self) -> str:
        """Return layer and releases: they decide what is kept in a cache."""
        return f"at={self.at}, {self.releases}"


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Return images moved by whole pixels; what a shift uncovers are reflections of the border.

    Example:
        >>> shifted(torch.arange(4.0).reshape(1, 1, 1, 4), 0, 1).flatten().tolist()
        [1.0, 0.0, 1.0, 2.0]
    """
    height, width = images.shape[2:]
    pad = (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0))
    padded = nn.functional.pad(images, pad, mode="reflect")
    return padded[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :height, :width]


def as_seen(features: FeatureSet, view: str) -> FeatureSet:
    """Return what an attacker sees who is shown one view of a model: features, logits, probabilities, embeddings.

    Probabilities are kept as their logarithms, which an attacker is free to take: rounding to 8 bits would turn 0.9999
    into 1. Logits and probabilities are kept in float32.

    Args:
        features: As extracted.
        view: One of ``threat.VIEWS``.

    Raises:
        AuditError: The view is unknown, or there are no logits to see.
    """
    if view not in VIEWS:
        raise AuditError(expected("view", "something a model releases", view, did_you_mean(view, VIEWS)))
    if view in ("features", "embeddings"):
        return features
    if not features.logits:
        raise AuditError(f"There is no model that answers: an attacker can't be shown {view}. Try 'embeddings'.")
    values = {split: logits.float() for split, logits in features.logits.items()}
    if view == "probabilities":
        values = {split: logits.log_softmax(1) for split, logits in values.items()}
    stored = stored_from_arrays({split: logits.numpy() for split, logits in values.items()}, exact=True)
    return replace(features, features=stored, layer=LOGITS if view == "logits" else view, codes={})


def _check_shift(releases: Releases, dataset: AttributeDataset) -> None:
    smallest = min(dataset.image_shape[1:])
    if releases.kind == "augmented" and releases.shift >= smallest:
        raise AuditError(expected("shift", f"below {smallest}, the size of the images", releases.shift))


def _check_differs(averaged: Averaged, dataset: AttributeDataset, split: str, device: torch.device) -> None:
    """Refuse an encoder of which two draws are one: averaging them would be no attack, and would look like one."""
    pixels = torch.from_numpy(dataset.images[dataset.rows(split)[:4]].copy()).to(device)
    images = normalised(pixels)
    with evaluating(averaged):
        draws = [forward(averaged.model, images, (averaged.at,), averaged.precision)[0] for _ in range(2)]
    if averaged.at == INPUT or torch.equal(draws[0][averaged.at], draws[1][averaged.at]):
        hint = "Try `dropout=True` if dropout stays on when features are released, else releases of kind 'one'."
        raise AuditError(
            f"The encoder releases the same at `{averaged.at}` each time: its draws have nothing to average. {hint}"
        )
