"""Entropies and variational estimates of I(h;z) and I(h;z|y) from a classifier's logits. All values in nats.

A classifier q(z|h) gives a *lower* bound of I(h;z) (Barber and Agakov, 2003): H(z) minus its cross-entropy. A low value
may mean that h says little, or that q is weak; no verdict may rest on it alone. :mod:`efface.information.vclub` has an
upper bound. Labels are class indices, and -1, a missing label, is left out everywhere.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from efface.errors import DataError, Problems, expected
from efface.shapes import Labels, Logits, Scalar

MISSING = -1
"""A label that is not known."""

Number = TypeVar("Number", float, Tensor, np.ndarray)


def bits(nats: Number) -> Number:
    """Convert nats to bits.

    Example:
        >>> bits(math.log(8))
        3.0
    """
    return nats / math.log(2)


def full_precision(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``values`` in float32, or float64 if they are; half precision is too coarse for sums of logarithms."""
    return values if values.dtype == torch.float64 else values.float()


def distribution_entropy(probabilities: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
    """Return H of each distribution along the last axis, in nats; 0·log 0 = 0."""
    return torch.special.entr(full_precision(probabilities)).sum(-1)


def label_entropy(values: Labels | Float[Tensor, " A"]) -> Scalar:
    """Return H(z) in nats, of labels (their empirical distribution) or of a vector of probabilities.

    Args:
        values: Class indices ``[B]`` (integers), or probabilities ``[A]`` (floats).

    Raises:
        DataError: Every label is missing, or the probabilities are no distribution.

    Example:
        >>> bits(label_entropy(torch.tensor([0, 1, 0, 1, -1]))).item()
        1.0
    """
    if not values.is_floating_point():
        return distribution_entropy(_frequencies(values))
    total = float(values.double().sum())
    if not abs(total - 1) < 1e-4 or bool((values < 0).any()):
        raise DataError(expected("values", "probabilities that sum to 1", total))
    return distribution_entropy(values)


def conditional_entropy(z: Labels, y: Labels) -> Scalar:
    """Return the empirical H(z|y) = H(z,y) − H(y) in nats, over the pairs where neither is missing.

    Raises:
        DataError: No pair has both labels.

    Example:
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> conditional_entropy(y, y).item()
        0.0
    """
    known = (z != MISSING) & (y != MISSING)
    z, y = z[known].long(), y[known].long()
    if not len(z):
        raise DataError(expected("z and y", "at least one pair without a missing label (-1)", "none"))
    # A product code of the pair: distinct pairs get distinct codes.
    return label_entropy(y * (z.max() + 1) + z) - label_entropy(y)


def prior_table(z: Labels, y: Labels, A: int, Y: int, smoothing: float = 0.0) -> Float[Tensor, "Y A"]:
    """Return p(z|y), one row per target class, counted over pairs where neither label is missing.

    A class of y without a single pair gets the marginal p(z): nothing is known of it, and a row of zeros would be read
    as a missing target.

    Args:
        z: Attribute labels ``[N]``.
        y: Target labels ``[N]``.
        A: Attribute classes.
        Y: Target classes.
        smoothing: Pseudo-count added to every pair of classes (Laplace).

    Raises:
        DataError: No usable pair, a label out of range, or negative smoothing; all at once.

    Example:
        >>> prior_table(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), A=3, Y=2)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.5000, 0.5000]])
    """
    known = (z != MISSING) & (y != MISSING)
    z, y = z[known].long(), y[known].long()
    _check_labels(z, y, A, Y, smoothing)
    counts = torch.bincount(y * A + z, minlength=Y * A).reshape(Y, A).double()
    marginal = counts.sum(0, keepdim=True)
    counts = torch.where(counts.sum(1, keepdim=True) > 0, counts, marginal) + smoothing
    return (counts / counts.sum(1, keepdim=True)).float()


def prior_means(v: Float[Tensor, " N"], y: Labels, Y: int) -> Float64[Tensor, " Y"]:
    """Return E[v|y] of a number, over people of whom both are known; E[v] for a class of y that nobody has.

    Args:
        v: Numbers ``[N]``, NaN where missing.
        y: Target labels ``[N]``.
        Y: Target classes.

    Example:
        >>> prior_means(torch.tensor([1.0, 3.0, torch.nan, 8.0]), torch.tensor([0, 0, 1, 2]), 3).tolist()
        [2.0, 4.0, 8.0]
    """
    known = ~v.isnan() & (y != MISSING)
    values, given = v[known].double(), y[known].long()
    counts, sums = torch.bincount(given, minlength=Y), torch.bincount(given, values, minlength=Y)
    return torch.where(counts > 0, sums / counts.clamp_min(1), values.mean())


def conditional_prior(table: Float[Tensor, "Y A"], y: Labels) -> Float[Tensor, "B A"]:
    """Return the row p(z|y) of each sample, all zeros where y is missing."""
    return torch.where((y == MISSING)[:, None], 0.0, table[y.clamp(min=0).long()])


def cross_entropy_rate(logits: Logits, labels: Labels) -> Scalar:
    """Return the mean −log q(label | h) in nats over the labels that are not missing; 0 if all are."""
    total = F.cross_entropy(full_precision(logits), labels.long(), ignore_index=MISSING, reduction="sum")
    return total / (labels != MISSING).sum().clamp(min=1)


def information_lower_bound(logits: Logits, labels: Labels, prior: Float[Tensor, " A"]) -> Scalar:
    """Estimate I(h;z) from below: H(z) − E[−log q(z|h)], in nats.

    Its expectation is I(h;z) − E KL(p(z|h) ‖ q(z|h)); it is negative for a q that is worse than the prior.

    Source:
        Barber and Agakov (2003); the paper, section 3.2.3.

    Args:
        logits: Of q(z|h).
        labels: z.
        prior: p(z), which the labels were drawn from.
    """
    return distribution_entropy(prior) - cross_entropy_rate(logits, labels)


def conditional_information_lower_bound(
    logits: Logits, z: Labels, y: Labels, p_z_given_y: Float[Tensor, "Y A"]
) -> Scalar:
    """Estimate I(h;z|y) from below: H(z|y) − E[−log q(z|h,y)], in nats, over pairs where neither label is missing.

    H(z|y) is averaged over the targets of this batch.

    Args:
        logits: Of q(z|h,y).
        z: Attribute labels.
        y: Target labels.
        p_z_given_y: See :func:`prior_table`.
    """
    known = (z != MISSING) & (y != MISSING)
    z, y = torch.where(known, z, MISSING), torch.where(known, y, MISSING)
    row_entropy = distribution_entropy(conditional_prior(p_z_given_y, y)).sum() / known.sum().clamp(min=1)
    return row_entropy - cross_entropy_rate(logits, z)


def confusion_loss(logits: Logits, prior_rows: Float[Tensor, "B A"]) -> Scalar:
    """Return the mean KL(p(z|y) ‖ q(z|h,y)) in nats: how far the adversary is from saying what y alone says.

    The extractor minimises it. At least 0, and 0 where h adds nothing to y in the adversary's eyes: a cross-entropy
    against p(z|y), less its least value H(z|y). Bounded below, unlike :func:`reversal`.

    Args:
        logits: Of q(z|h,y); for the marginal variant q(z|h).
        prior_rows: p(z|y) of each sample (:func:`conditional_prior`), or p(z) in every row; rows of zeros (y missing)
            are left out.
    """
    rows = full_precision(prior_rows).detach()
    log_q = F.log_softmax(full_precision(logits), dim=-1)
    divergence = F.kl_div(log_q, rows, reduction="sum")
    return divergence / (rows.sum(-1) > 0).sum().clamp(min=1)


def reversal(logits: Logits, labels: Labels) -> Scalar:
    """Return minus the adversary's cross-entropy, in nats: the lower bound of I(h;z) less the constant H(z).

    Its gradient is minus that of the adversary's own loss, as behind a gradient-reversal layer (Ganin and Lempitsky,
    2015). It has no least value: an extractor that makes q confidently wrong lowers it without end, and a q that is
    surely wrong still tells z. :func:`confusion_loss` has no such reward.
    """
    return -cross_entropy_rate(logits, labels)


def _frequencies(labels: Labels) -> Float[Tensor, " A"]:
    """Shares of the labels that occur."""
    known = labels[labels != MISSING]
    if not len(known):
        raise DataError(expected("values", "at least one label that is not missing (-1)", f"{len(labels)} missing"))
    counts = torch.unique(known, return_counts=True)[1]
    return counts.float() / len(known)


def _check_labels(z: Labels, y: Labels, A: int, Y: int, smoothing: float) -> None:
    problems = Problems(DataError)
    if not len(z):
        problems.add(expected("z and y", "at least one pair without a missing label (-1)", "none"))
    for name, labels, classes in (("z", z, A), ("y", y, Y)):
        wrong = sorted(set(labels[(labels < 0) | (labels >= classes)].tolist()))
        if wrong:
            problems.add(expected(name, f"labels from 0 to {classes - 1}, or -1 for missing", wrong[:10]))
    if not smoothing >= 0:
        problems.add(expected("smoothing", "a number of at least 0", smoothing))
    problems.raise_if_any()
