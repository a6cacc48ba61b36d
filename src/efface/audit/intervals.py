"""Bootstrap intervals over people, and over attacker seeds.

People are resampled, not predictions: figures of the same people (the attacker on the model before and after, and the
label floor) are resampled together, so that what is common to them cancels. Where an attack was repeated with several
seeds, every seed guessed the same people, so people and seeds are resampled separately and crossed.

Right-or-wrong figures take few distinct values, and people with equal values are interchangeable: drawing how often
each *pattern* occurs, from one multinomial, is the bootstrap itself, and its cost does not grow with the people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Interval = tuple[float, float]
PATTERNS = 256
CHUNK = 4_000_000


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn.

    Attributes:
        confidence: Nominal coverage, a fraction.
        resamples: Number of resamples.
        seed: Of the draws.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def widened(self, choices: int) -> Resampling:
        """Return the same for a figure picked among several (Bonferroni): confidence 1 − (1 − c)/k.

        Example:
            >>> round(Resampling(0.95).widened(5).confidence, 3)
            0.99
        """
        return Resampling(1 - (1 - self.confidence) / choices, self.resamples, self.seed)


def resampled_means(values: Float[np.ndarray, "n M"], resamples: int = 2000, seed: int = 0) -> Float[np.ndarray, "R M"]:
    """Return the means of each column in every resample of the people (rows).

    Source: Efron (1979), the non-parametric bootstrap.
    """
    generator = np.random.default_rng(seed)
    patterns, counts = np.unique(values, axis=0, return_counts=True)
    if len(patterns) <= PATTERNS:
        return generator.multinomial(len(values), counts / len(values), size=resamples) @ patterns / len(values)
    rows = max(1, CHUNK // values.size)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means = [values[generator.integers(0, len(values), (size, len(values)))].mean(1) for size in sizes]
    return np.concatenate(means)


def percentiles(draws: Float[np.ndarray, " R"], confidence: float = 0.95) -> Interval:
    """Return the percentile interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def accuracy_interval(
    correct: Bool[np.ndarray, " n"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of an accuracy.

    Where all people are right, or all wrong, resampling shows no spread at all; the exact binomial bound of Clopper
    and Pearson (1934) takes its place.

    Example:
        >>> low, high = accuracy_interval(np.arange(1000) < 800)
        >>> 0.77 < low < 0.78 and 0.82 < high < 0.83
        True
    """
    n, rest = len(correct), (1 - confidence) / 2
    if correct.all():
        return float(rest ** (1 / n)), 1.0
    if not correct.any():
        return 0.0, float(1 - rest ** (1 / n))
    return percentiles(resampled_means(correct[:, None].astype(float), resamples, seed)[:, 0], confidence)


def mean_interval(
    values: Float[np.ndarray, " n"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the interval of a mean."""
    return percentiles(resampled_means(values[:, None], resamples, seed)[:, 0], confidence)


def paired_interval(
    columns: Float[np.ndarray, "n M"],
    statistic: Callable[[Float[np.ndarray, "R M"]], Float[np.ndarray, " R"]],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of a function of several means over the same people.

    Args:
        columns: One figure per column, one person per row.
        statistic: Function of the resampled means, row by row.
        confidence: Nominal coverage, a fraction.
        resamples: Number of resamples.
        seed: Of the draws.

    Example:
        >>> a = (np.arange(1000) % 2).astype(float)
        >>> paired_interval(np.stack([a, a], 1), lambda means: means[:, 0] - means[:, 1])
        (0.0, 0.0)
    """
    return percentiles(statistic(resampled_means(columns, resamples, seed)), confidence)


def excess_interval(
    best: Bool[np.ndarray, " n"],
    original: Bool[np.ndarray, " n"],
    floor: Bool[np.ndarray, " n"],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the interval of the excess leakage; who is right is told person by person.

    Args:
        best: Right guesses of the attacker on the audited model.
        original: Right guesses of the attacker on the original model.
        floor: Right guesses of one who knows y only.
        confidence: Nominal coverage, a fraction.
        resamples: Number of resamples.
        seed: Of the draws.
    """
    n = len(best)

    def excess(means: Float[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
        # Half a person is the least the original can leak: keeps rare empty resamples finite.
        leaked = np.maximum(means[:, 1] - means[:, 2], 0.5 / n)
        return np.maximum((means[:, 0] - means[:, 2]) / leaked, 0)

    columns = np.stack([best, original, floor], 1).astype(float)
    return paired_interval(columns, excess, confidence, resamples, seed)


def seed_weights(seeds: int, how: Resampling) -> Float[np.ndarray, "R S"]:
    """Return how much each attacker seed counts in every resample; rows sum to 1.

    Resampling S seeds shows (S − 1)/S of the variance of their mean; deviations from equal weights are stretched to
    make up for it, so a weight may be below 0. A single seed always counts 1: its interval says nothing of other seeds.
    """
    if seeds == 1:
        return np.ones((how.resamples, 1))
    # Not the people's own generator: the two levels are independent.
    generator = np.random.default_rng([how.seed, 1])
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=how.resamples) / seeds
    return 1 / seeds + np.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


def seeded_interval(values: Float[np.ndarray, "S n"], how: Resampling | None = None) -> Interval:
    """Return the interval of a mean over people, averaged over attacker seeds: both are resampled, crossed.

    Source: Owen (2007), the pigeonhole bootstrap; conservative by the interaction of seed and person. With few seeds
    the spread over seeds is known poorly: below five, where it dominates, coverage falls short of nominal.

    Args:
        values: A figure per seed and person.
        how: Confidence, resamples, seed.
    """
    how = how or Resampling()
    per_seed = resampled_means(values.T, how.resamples, how.seed)
    return percentiles((per_seed * seed_weights(len(values), how)).sum(1), how.confidence)


def seeded_accuracy_interval(correct: Bool[np.ndarray, "S n"], how: Resampling | None = None) -> Interval:
    """Return the interval of an accuracy over people and attacker seeds, within [0, 1].

    Where every seed is right about everybody, or about nobody, the bound is the exact one of ``accuracy_interval``.

    Example:
        >>> right = np.arange(1000) < 800
        >>> seeded_accuracy_interval(right[None]) == accuracy_interval(right)
        True
    """
    how = how or Resampling()
    if correct.all() or not correct.any():
        return accuracy_interval(correct[0], how.confidence)
    low, high = seeded_interval(correct.astype(float), how)
    return max(low, 0.0), min(high, 1.0)


def weighted_interval(
    statistic: Callable[[Float[np.ndarray, "R n"]], Float[np.ndarray, "R S"]], people: int, how: Resampling
) -> Interval:
    """Return the interval, over people and attacker seeds, of a figure that is no mean over people.

    Args:
        statistic: Figure per seed, in resamples given by how often each person was drawn; NaN where it has no value.
        people: n.
        how: Confidence, resamples, seed.
    """
    draws = np.concatenate([statistic(counts) for counts in person_counts(people, how)])
    mixed = (draws * seed_weights(draws.shape[1], how)).sum(1)
    return percentiles(mixed[~np.isnan(mixed)], how.confidence)


def person_counts(people: int, how: Resampling) -> Iterator[Float[np.ndarray, "R n"]]:
    """Yield, a chunk of resamples at a time, how often each person is drawn."""
    generator = np.random.default_rng(how.seed)
    rows = max(1, CHUNK // people)
    for start in range(0, how.resamples, rows):
        size = min(rows, how.resamples - start)
        drawn = generator.integers(0, people, (size, people)) + people * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people).astype(np.float32)
