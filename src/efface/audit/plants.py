"""Writing a made-up attribute faintly into features: what the controls ask attackers to find.

The attribute w that is written is z shuffled among people of the same y, so that the features know nothing of it beyond
y. Only a *noisy copy* of w is written, so that the best accuracy anyone can reach is known, whatever the features: one
who reads the copy perfectly guesses w as well as p(w | copy, y) allows. How faint the writing is, is a second matter:
its separation, in standard deviations of the features' own variation along the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.audit.attackers.base import FeatureView
from efface.audit.store import Standard, StoredFeatures, channel_axis, encode, per_channel
from efface.shapes import Features, Labels

CHUNK = 512
SAMPLE = 1000
"""People whose features tell how much they vary along a pattern."""
WIDEST = 2048
"""Numbers per person that a part of the features may hold: some channels, all places."""
FEWEST = 8
"""Channels that are kept whatever their size."""
FAINTEST = 2.0**-6
"""Least spread along a pattern, in standard deviations of a channel: what is written must not drown in rounding."""
SEPARATION = 6.0
"""d′ between the two closest classes of the copy, for one who knows the pattern."""


@dataclass(frozen=True)
class Pattern:
    """How a class is written: the same shift of the channels at every place.

    Attributes:
        values: ``[A, C]`` what is added for each class, in standard deviations of the channels.
    """

    values: Float[Tensor, "A C"]

    @property
    def amplitude(self) -> float:
        """Root mean square of what is added, in standard deviations of a channel; 0: nothing can be written."""
        return float(self.values.square().mean().sqrt())


def shuffle_within(
    labels: Int[np.ndarray, " n"], target: Int[np.ndarray, " n"], generator: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Return the labels, shuffled among people of the same y (a missing y is one more class).

    p(y, z) and every floor stay as they are, exactly; all else that is known of z is lost.

    Example:
        >>> y = np.array([0, 0, 1, 1, 1])
        >>> shuffled = shuffle_within(np.array([0, 1, 2, 2, 0]), y, np.random.default_rng(0))
        >>> sorted(shuffled[:2].tolist()), sorted(shuffled[2:].tolist())
        ([0, 1], [0, 2, 2])
    """
    # People of one y stay in its places: random order within y, then back to where that y was.
    places = np.argsort(target, kind="stable")
    order = np.lexsort((generator.random(len(labels)), target))
    shuffled = np.empty_like(labels)
    shuffled[places] = labels[order]
    return shuffled


@dataclass(frozen=True)
class Copy:
    """The noisy copy: with probability ``keep`` it is w, else a draw from p(w|y).

    Attributes:
        keep: A fraction.
        best: ``[K, A, A]`` joint p(known, copy, w), for one who knows ``known`` (the model's own answer, or y).
    """

    keep: float
    best: Float[np.ndarray, "K A A"]

    @property
    def floor(self) -> float:
        """Expected accuracy of one who knows ``known`` alone."""
        return float(self.best.sum(1).max(1).sum())

    @property
    def bayes(self) -> float:
        """Expected accuracy of one who also reads the copy."""
        return float(self.best.max(2).sum())

    def draw(
        self, labels: Int[np.ndarray, " n"], target: Int[np.ndarray, " n"], generator: np.random.Generator
    ) -> Int[np.ndarray, " n"]:
        """Return the copy of each person's label."""
        kept = generator.random(len(labels)) < self.keep
        return np.where(kept, labels, shuffle_within(labels, target, generator))

    def guesses(
        self, known: Int[np.ndarray, " n"], copy: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Return what the two guess: who knows ``known`` alone, and who reads the copy too."""
        return self.best.sum(1).argmax(1)[known], self.best.argmax(2)[known, copy]


def noisy_copy(
    labels: Int[np.ndarray, " n"],
    target: Int[np.ndarray, " n"],
    known: Int[np.ndarray, " n"],
    classes: int,
    excess: float,
) -> Copy:
    """Return the copy that is worth ``excess`` of accuracy, or half of what is left above the floor if that is less.

    Args:
        labels: z of the training people.
        target: Their y, from 0.
        known: What an attacker surely knows of them, from 0: the model's own answer, or y.
        classes: A.
        excess: Fraction.

    Example:
        >>> z = np.arange(1000) % 2
        >>> copy = noisy_copy(z, np.zeros(1000, int), np.zeros(1000, int), 2, 0.1)
        >>> round(copy.floor, 3), round(copy.bayes, 3), round(copy.keep, 3)
        (0.5, 0.6, 0.2)
    """
    given = np.zeros((int(target.max()) + 1, classes))
    np.add.at(given, (target, labels), 1)
    given /= given.sum(1, keepdims=True).clip(1)
    shared = np.zeros((int(known.max()) + 1, len(given)))
    np.add.at(shared, (known, target), 1 / len(labels))

    def copy(keep: float) -> Copy:
        channel = keep * np.eye(classes) + (1 - keep) * given[:, :, None]
        return Copy(keep, np.einsum("ky,yw,ycw->kcw", shared, given, channel))

    low, high = 0.0, 1.0
    wanted = copy(0.0).floor + min(excess, (1 - copy(0.0).floor) / 2)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if copy(middle).bayes < wanted else (low, middle)
    return copy(high)


def pattern_for(view: FeatureView, generator: np.random.Generator) -> Pattern:
    """Return a way to write into these features, made to its separation.

    A Gaussian number is drawn per class and channel. Channels that never vary are left alone: anything there would
    stand out.
    """
    people = torch.from_numpy(generator.permutation(len(view))[:SAMPLE]).sort().values
    rows = _pooled(view.standardised(people)).double()
    drawn = torch.from_numpy(generator.normal(size=(view.classes, rows.shape[1])))
    drawn = (drawn - drawn.mean(0)) * (rows.std(0) > 1e-6)
    covariance = torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
    first, second = torch.triu_indices(view.classes, view.classes, 1)
    apart = drawn[first] - drawn[second]
    length = apart.square().sum(1)
    noise = (torch.einsum("pc,cd,pd->p", apart, covariance, apart).clamp_min(0) + FAINTEST**2 * length).sqrt()
    # The two classes that are hardest to tell apart get the separation; the others more.
    per_unit = float((length / noise.clamp_min(1e-12)).min())
    return Pattern((SEPARATION / per_unit * drawn).float() if per_unit > 0 else 0 * drawn.float())


def _pooled(features: Features) -> Float[Tensor, "n C"]:
    """Channel means over places."""
    return per_channel(features).unflatten(0, (len(features), -1)).mean(1)


def part(
    view: FeatureView, people: Int[np.ndarray, " n"], channels: Int[np.ndarray, " C"], labels: Labels
) -> FeatureView:
    """Return some channels of some people, as exact as they are stored, with labels of one's own; in memory.

    Args:
        view: Where the features come from.
        people: Places in the view.
        channels: Channels to keep, in rising order.
        labels: One per person.
    """
    kept, source = torch.from_numpy(channels), view.source
    standard = Standard(*(getattr(source.standard, name)[kept] for name in ("offset", "mean", "std")))
    axis = 1 + channel_axis(view.shape)
    parts = []
    for start in range(0, len(people), CHUNK):
        features = source.read(view.rows[people[start : start + CHUNK]]).index_select(axis, kept)
        parts.append(encode(features, standard.offset, not source.rounded))
    logits = None if view.logits is None else view.logits[torch.from_numpy(people)]
    stored = StoredFeatures(np.concatenate(parts), standard)
    return FeatureView(stored, np.arange(len(people)), labels, view.classes, logits)


def channels_of(shape: tuple[int, ...], generator: np.random.Generator) -> Int[np.ndarray, " C"]:
    """Return which channels a part keeps: all of them, or as many, drawn at random, as hold ``WIDEST`` numbers.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> len(channels_of((64, 8, 8), generator)), len(channels_of((512,), generator))
        (32, 512)
    """
    channels = shape[channel_axis(shape)]
    places = int(np.prod(shape)) // channels
    count = min(channels, max(FEWEST, WIDEST // places))
    return np.sort(generator.permutation(channels)[:count])


def planted(view: FeatureView, written: Int[np.ndarray, " n"], pattern: Pattern) -> FeatureView:
    """Return the view with a class written into each person's features; nothing else is changed.

    Args:
        view: Usually a part: the result is held in memory.
        written: Class to write, per person.
        pattern: How.
    """
    standard, parts = view.source.standard, []
    mean, std = (standard.broadcast(values, view.shape) for values in (standard.mean, standard.std))
    for people in torch.arange(len(view)).split(CHUNK):
        shift = pattern.values[torch.from_numpy(written[people.numpy()])]
        if len(view.shape) > 1:
            shift = shift[:, None, :] if channel_axis(view.shape) else shift[:, :, None, None]
        features = (view.standardised(people) + shift) * std + mean
        parts.append(encode(features, torch.zeros_like(standard.offset), not view.source.rounded))
    stored = StoredFeatures(np.concatenate(parts), standard)
    return FeatureView(stored, np.arange(len(view)), view.labels, view.classes, view.logits)
