"""The Hilbert-Schmidt independence criterion: dependence of features and labels without any classifier.

HSIC(h;z) is the squared distance, in the space of two kernels, between p(h,z) and p(h)p(z). With a Gaussian kernel on
h it is 0 only where h and z are independent. It is no information: it has no unit, and 1 is its greatest value only
after normalisation.

Source: Gretton et al. (2005); the unbiased estimate, Song et al. (2012), equation 4; normalised as by Cortes et al.
(2012).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from efface.information.entropy import MISSING, full_precision
from efface.shapes import Labels, Scalar

FEWEST = 4
"""Samples that the unbiased estimate needs."""


def gaussian_kernel(x: Float[Tensor, "N D"]) -> Float[Tensor, "N N"]:
    """Return exp(−‖xᵢ − xⱼ‖² / m), with m the median squared distance: unchanged by scale and shift.

    Example:
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(gaussian_kernel(x), gaussian_kernel(10 * x + 1), atol=1e-5)
        True
    """
    x = full_precision(x)
    x = x - x.mean(0)
    norms = x.square().sum(1)
    distances = (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp_min(0)
    apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    # Through the median too: a change of scale must not look like a change of dependence.
    return torch.exp(-distances / distances[apart].median().clamp_min(1e-12))


def label_kernel(z: Labels) -> Float[Tensor, "N N"]:
    """Return 1 where two labels are the same and 0 elsewhere."""
    return (z[:, None] == z[None, :]).float()


def hsic(k: Float[Tensor, "N N"], l: Float[Tensor, "N N"]) -> Scalar:  # noqa: E741 - the literature's letter
    """Return the unbiased estimate of HSIC from two kernel matrices; it may be negative.

    Args:
        k: Of the features.
        l: Of the labels; as many samples, at least 4.
    """
    n = len(k)
    k, l = k - torch.diag(k.diagonal()), l - torch.diag(l.diagonal())  # noqa: E741
    sums_k, sums_l = k.sum(1), l.sum(1)
    together = (k * l).sum()
    apart = sums_k.sum() * sums_l.sum() / ((n - 1) * (n - 2))
    crossed = 2 * (sums_k @ sums_l) / (n - 2)
    return (together + apart - crossed) / (n * (n - 3))


def normalised_hsic(
    x: Float[Tensor, "N D"],
    z: Labels,
    given: Labels | None = None,
    numbers: Float[Tensor, " N"] | None = None,
) -> Scalar:
    """Return HSIC(h;z) / sqrt(HSIC(h;h)·HSIC(z;z)): about 0 for independent samples, 1 where one tells the other.

    Args:
        x: Features, flattened.
        z: Labels; -1 is missing.
        given: Target labels y: the mean over the classes of y, weighted by their samples. None: over all samples.
        numbers: What the labels were cut from, NaN where missing: then the second kernel is the mean of that on labels
            and a Gaussian one on these, for which nearby numbers are alike; both are to go.

    Returns:
        A number without unit; 0 where no class has enough samples of two labels.

    Example:
        >>> z = torch.arange(64) % 2
        >>> round(float(normalised_hsic(z[:, None].float(), z)), 4)
        1.0
    """
    known = z != MISSING if numbers is None else (z != MISSING) & ~numbers.isnan()
    y = torch.zeros_like(z) if given is None else given
    known = known & (y != MISSING)
    total, weight = x.sum() * 0, 0
    for value in y[known].unique():
        chosen = known & (y == value)
        count = int(chosen.sum())
        told = (z if numbers is None else numbers)[chosen]
        if count < FEWEST or len(told.unique()) < 2:
            continue
        k = gaussian_kernel(x[chosen])
        l = label_kernel(z[chosen])  # noqa: E741
        if numbers is not None:
            l = (l + gaussian_kernel(told[:, None])) / 2  # noqa: E741
        scale = (hsic(k, k).clamp_min(1e-8) * hsic(l, l).clamp_min(1e-8)).sqrt()
        total, weight = total + count * hsic(k, l) / scale, weight + count
    return total / max(1, weight)


__all__ = ["gaussian_kernel", "hsic", "label_kernel", "normalised_hsic"]
