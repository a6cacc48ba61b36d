"""Bootstrap intervals over people.

People are resampled, not predictions: figures of the same people (the attacker on the model before and after, and the
label floor) are resampled together, so that what is common to them cancels.

Right-or-wrong figures take few distinct values, and people with equal values are interchangeable: drawing how often
each *pattern* occurs, from one multinomial, is the bootstrap itself, and its cost does not grow with the people.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Interval = tuple[float, float]
PATTERNS = 256
CHUNK = 4_000_000


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
