"""What an attack is worth: efficacy, AUC, AUM and its ceiling, excess leakage, bits, and how alike two images are.

Fractions in [0, 1] throughout; information in bits; images in [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.shapes import Labels, Logits

TINY = 1e-9
FEW_SCORES = 512
"""Different scores up to which people are counted by a matrix product: a release that is a finite code has few."""


def efficacy(accuracy: float, classes: int) -> float:
    """Return the attack's efficacy: its accuracy, two-sided if the attribute is binary.

    Deviation from the paper: an attacker who is always wrong about a binary attribute knows it, so max(a, 1 − a).

    Example:
        >>> efficacy(0.1, 2), efficacy(0.1, 5)
        (0.9, 0.1)
    """
    return max(accuracy, 1 - accuracy) if classes == 2 else accuracy


def aum(efficacy: float, fidelity: float) -> float:
    """Return the attribute unlearning measure: the harmonic mean of 1 − efficacy and fidelity.

    Equation: 5 of the paper.

    Example:
        >>> round(aum(0.2, 1.0), 3)
        0.889
    """
    kept = 1 - efficacy
    return 2 * kept * fidelity / (kept + fidelity) if kept + fidelity > 0 else 0.0


def aum_ceiling(label_floor: float, fidelity: float = 1.0) -> float:
    """Return the AUM of an attacker who knows y and nothing else: no competent attacker leaves more.

    Example:
        >>> round(aum_ceiling(0.2), 3)
        0.889
    """
    return aum(label_floor, fidelity)


def excess_leakage(best: float, original_best: float, label_floor: float) -> float | None:
    """Return (best − floor) / (best on the original − floor), clipped at 0; None if the original leaks nothing.

    Source: THEORY, "What the numbers can be at best". 0: nothing beyond what y says; 1: as leaky as before.

    Example:
        >>> excess_leakage(0.5, 0.7, 0.3), excess_leakage(0.2, 0.7, 0.3), excess_leakage(0.5, 0.3, 0.3)
        (0.5, 0.0, None)
    """
    range_ = original_best - label_floor
    if range_ <= TINY:
        return None
    # Counts of people divide to values that carry rounding noise: 0.2 / 0.4 must read 0.5.
    return round(max(0.0, (best - label_floor) / range_), 9)


def bits(logits: Logits, labels: Labels, entropy_bits: float) -> float:
    """Return H(z) − CE in bits: a variational lower bound of I(h; z) when ``labels`` are held out.

    Source: Barber and Agakov (2003). H(z) is that of the same labels. Negative where the attacker is miscalibrated.
    """
    return entropy_bits - float(F.cross_entropy(logits.float(), labels)) / math.log(2)


def pointwise_bits(logits: Logits, labels: Labels, without: Float[Tensor, " B"]) -> Float[np.ndarray, " B"]:
    """Return log2 q(z|h) − log2 p(z) of each person: what the features say of this person's z, in bits.

    The mean is ``bits``. ``without`` is p(z) (or p(z|y), for I(h; z|y)) of each person's own z on the same people. To
    first order the estimated entropy moves with the people as this mean does, so its bootstrap gives the interval.

    Example:
        >>> z = torch.tensor([0, 1])
        >>> pointwise_bits(torch.eye(2) * 100, z, torch.full((2,), 0.5)).tolist()
        [1.0, 1.0]
    """
    own = F.log_softmax(logits.double(), 1)[torch.arange(len(labels)), labels]
    return ((own - without.double().log()) / math.log(2)).numpy()


def balanced_accuracy(
    guesses: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], counts: Float[np.ndarray, "R n"] | None = None
) -> Float[np.ndarray, " R"]:
    """Return the mean over classes of the share guessed right, in each resample of the people.

    Classes that nobody has are left out.

    Args:
        guesses: Class guessed for each person.
        labels: Class of each person.
        counts: How often each person counts, per resample; None: once, in one resample.

    Example:
        >>> balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])).tolist()
        [0.5]
    """
    counts = np.ones((1, len(labels)), np.float32) if counts is None else counts
    classes = np.unique(labels)
    has = (labels[:, None] == classes).astype(np.float32)
    people, right = counts @ has, counts @ (has * (guesses == labels)[:, None])
    with np.errstate(invalid="ignore"):
        shares = right / people
    return _mean_of_known(shares)


def auc(
    scores: Float[np.ndarray, "n A"], labels: Int[np.ndarray, " n"], counts: Float[np.ndarray, "R n"] | None = None
) -> Float[np.ndarray, " R"]:
    """Return the area under the ROC curve in each resample, one class against the rest, averaged over the classes.

    Ties count half. Classes that nobody has are left out; NaN where all people are of one class. Not two-sided:
    see ``two_sided``.

    Source: Hanley and McNeil (1982); the macro average.

    Args:
        scores: Score of each class for each person; any increasing function of q(z|h).
        labels: Class of each person.
        counts: How often each person counts, per resample; None: once, in one resample.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
        >>> auc(scores, np.array([0, 1, 1])).tolist()
        [1.0]
    """
    counts = np.ones((1, len(labels)), np.float32) if counts is None else counts
    present = np.unique(labels)
    # The curves of two classes mirror each other.
    wanted = present[1:] if scores.shape[1] == 2 else present
    if len(present) < 2:
        return np.full(len(counts), np.nan)
    return _mean_of_known(np.stack([_one_auc(scores[:, z], labels == z, counts) for z in wanted], 1))


def _one_auc(
    score: Float[np.ndarray, " n"], positive: Int[np.ndarray, " n"] | np.ndarray, counts: Float[np.ndarray, "R n"]
) -> Float[np.ndarray, " R"]:
    """One class against the rest: the share of pairs in the right order."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    counts, positive = counts.take(order, 1), positive[order].astype(bool)
    of = {side: counts.compress(positive == side, 1) for side in (True, False)}
    if len(starts) == len(score):  # no ties: whoever comes before is below
        # How many negatives come before each positive: the place among the negatives tells.
        below = np.cumsum(np.pad(of[False], ((0, 0), (1, 0))), 1, dtype=np.float64)
        right = (of[True] * below.take(np.cumsum(~positive)[positive], 1)).sum(1)
    else:
        above, below = (_by_score(of[side], positive == side, starts) for side in (True, False))
        right = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
    people = of[True].sum(1, dtype=np.float64), of[False].sum(1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return right / (people[0] * people[1])


def _by_score(
    counts: Float[np.ndarray, "R m"], chosen: Bool[np.ndarray, " n"], starts: Int[np.ndarray, " G"]
) -> Float[np.ndarray, "R G"]:
    """How many of the chosen people have each score.

    Args:
        counts: Of the chosen, by rising score.
        chosen: Who they are among all, by rising score.
        starts: Where each score begins among all.
    """
    place = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(chosen)))[chosen]
    if len(starts) <= FEW_SCORES:
        # Whole numbers of people, below 2^24: exact in float32.
        return (counts @ np.eye(len(starts), dtype=np.float32)[place]).astype(np.float64)
    found = np.zeros((len(counts), len(starts)))
    if len(place):
        first = np.flatnonzero(np.diff(place, prepend=-1))
        found[:, place[first]] = np.add.reduceat(counts, first, axis=1, dtype=np.float64)
    return found


def _mean_of_known(values: Float[np.ndarray, "R A"]) -> Float[np.ndarray, " R"]:
    """Mean over the classes that have a value; NaN where none has."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def two_sided(value: float, interval: tuple[float, float], classes: int) -> tuple[float, tuple[float, float]]:
    """Return a figure with its interval, mirrored at one half if the attribute is binary and the figure below.

    An attacker that is always wrong about a binary attribute knows it. The interval is mirrored, not folded: one that
    held 0.5 still does. As the better side is picked, it should be widened for two choices.

    Example:
        >>> two_sided(0.1, (0.05, 0.15), 2), two_sided(0.1, (0.05, 0.15), 3)
        ((0.9, (0.85, 0.95)), (0.1, (0.05, 0.15)))
    """
    if classes != 2 or value >= 0.5:
        return value, interval
    return 1 - value, (1 - interval[1], 1 - interval[0])


def psnr(images: Float[Tensor, "B C H W"], others: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Return the peak signal-to-noise ratio of each image in decibels, 100 at most.

    Example:
        >>> round(float(psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1))), 3)
        20.0
    """
    error = (images.float() - others.float()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


def ssim(images: Float[Tensor, "B C H W"], others: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Return the structural similarity of each image: mean over channels and over windows that fit the image.

    Source: Wang, Bovik, Sheikh and Simoncelli (2004): Gaussian window of 11 pixels, σ 1.5, K1 0.01, K2 0.03. Images
    below 11 pixels get the largest odd window that fits.

    Example:
        >>> float(ssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
        1.0
    """
    # About the middle of the range: in float32 a variance then keeps its digits beside the square of a mean.
    middle = 0.5
    x, y = images.float() - middle, others.float() - middle
    size = min(11, *(side - 1 + side % 2 for side in x.shape[2:]))
    # The window is a product of two lines, and a line slid along an axis is a banded matrix: two products of matrices
    # in place of a convolution per channel.
    rows, columns = (_sliding(size, side).to(x) for side in x.shape[2:])

    def blur(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = mean_x + middle, mean_y + middle
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast).flatten(1).mean(1)


def _sliding(size: int, side: int, sigma: float = 1.5) -> Float[Tensor, "P S"]:
    """Gaussian line that sums to 1, at every place where it fits."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    places = torch.arange(side - size + 1)[:, None]
    return torch.zeros(len(places), side, dtype=torch.float64).scatter_(
        1, places + torch.arange(size), (line / line.sum()).expand(len(places), size)
    )
