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
from jaxtyping import Bool, Float, Int
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
DIRECTION, LOCAL = "direction", "local"
SEPARATION = {DIRECTION: 6.0, LOCAL: 10.0}
"""d′ between the two closest classes of the copy, for one who knows the patterns."""


@dataclass(frozen=True)
class Pattern:
    """One way to write a class.

    Attributes:
        kind: ``direction``: the same shift of the channels at every position; ``local``: a shift of the channels in one
            small patch, at a place drawn for each person (maps and tokens only).
        values: ``[A, C]`` what is added for each class, in standard deviations of the channels.
        separation: d′ for one who knows the pattern.
    """

    kind: str
    values: Float[Tensor, "A C"]
    separation: float

    @property
    def amplitude(self) -> float:
        """Root mean square of what is added, in standard deviations of a channel."""
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


def patterns(view: FeatureView, generator: np.random.Generator) -> list[Pattern]:
    """Return the ways to write into these features, made to their separations.

    A Gaussian number is drawn per class and channel. Channels that never vary are left alone: anything there would
    stand out.
    """
    people = torch.from_numpy(generator.permutation(len(view))[:SAMPLE]).sort().values
    features = view.standardised(people)
    kinds = {DIRECTION: _pooled(features)}
    if features.ndim > 2:
        kinds[LOCAL] = per_channel(features)
    return [_pattern(kind, rows, view.classes, generator) for kind, rows in kinds.items()]


def _pooled(features: Features) -> Float[Tensor, "n C"]:
    """Channel means over positions."""
    return per_channel(features).unflatten(0, (len(features), -1)).mean(1)


def _pattern(kind: str, rows: Float[Tensor, "M C"], classes: int, generator: np.random.Generator) -> Pattern:
    rows = rows.double()
    drawn = torch.from_numpy(generator.normal(size=(classes, rows.shape[1])))
    drawn = (drawn - drawn.mean(0)) * (rows.std(0) > 1e-6)
    covariance = torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])
    first, second = torch.triu_indices(classes, classes, 1)
    apart = drawn[first] - drawn[second]
    length = apart.square().sum(1)
    noise = (torch.einsum("pc,cd,pd->p", apart, covariance, apart).clamp_min(0) + FAINTEST**2 * length).sqrt()
    # The two classes that are hardest to tell apart get the separation; the others more.
    per_unit = (length / noise.clamp_min(1e-12)).min()
    scale = SEPARATION[kind] / float(per_unit) if per_unit > 0 else 0.0
    return Pattern(kind, (scale * drawn).float(), SEPARATION[kind])


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


def planted(
    view: FeatureView,
    written: Int[np.ndarray, " n"],
    kinds: Int[np.ndarray, " n"],
    forms: list[Pattern],
    seed: int,
) -> FeatureView:
    """Return the view with a class written into each person's features; nothing else is changed.

    Args:
        view: Usually a part: the result is held in memory.
        written: Class to write, per person.
        kinds: Which of the patterns each person gets.
        forms: The patterns.
        seed: Of the places of local patterns.
    """
    generator, standard = np.random.default_rng(seed), view.source.standard
    parts = []
    for start in range(0, len(view), CHUNK):
        rows = slice(start, start + CHUNK)
        features = view.standardised(torch.arange(len(view))[rows])
        for place, pattern in enumerate(forms):
            mine = torch.from_numpy(np.flatnonzero(kinds[rows] == place))
            features[mine] += _shift(pattern, torch.from_numpy(written[rows])[mine], view.shape, generator)
        mean, std = (standard.broadcast(values, view.shape) for values in (standard.mean, standard.std))
        parts.append(encode(features * std + mean, torch.zeros_like(standard.offset), not view.source.rounded))
    stored = StoredFeatures(np.concatenate(parts), standard)
    return FeatureView(stored, np.arange(len(view)), view.labels, view.classes, view.logits)


def _shift(
    pattern: Pattern, written: Labels, shape: tuple[int, ...], generator: np.random.Generator
) -> Float[Tensor, "B ..."]:
    """What is added to the features of the people who get this pattern."""
    values = pattern.values[written]
    if len(shape) == 1:
        return values
    spread = values[:, :, None, None] if len(shape) == 3 else values[:, None, :]
    if pattern.kind == DIRECTION:
        return spread.expand(-1, *shape)
    return spread * _places(len(written), shape, generator)


def _places(people: int, shape: tuple[int, ...], generator: np.random.Generator) -> Float[Tensor, "B ..."]:
    """One patch per person: 1 inside, 0 outside; an eighth of a map's side, or one token."""
    if len(shape) == 2:
        where = torch.from_numpy(generator.integers(0, shape[0], people))
        return torch.nn.functional.one_hot(where, shape[0]).float()[:, :, None]
    inside = [_interval(people, side, generator) for side in shape[1:]]
    return (inside[0][:, :, None] & inside[1][:, None, :]).float()[:, None]


def _interval(people: int, side: int, generator: np.random.Generator) -> Bool[Tensor, "B S"]:
    length = max(1, side // 8)
    start = torch.from_numpy(generator.integers(0, side - length + 1, people))[:, None]
    at = torch.arange(side)
    return (at >= start) & (at < start + length)
