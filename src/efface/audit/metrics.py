"""What an attack is worth: efficacy, AUM and its ceiling, excess leakage, bits, and how alike two images are.

Fractions in [0, 1] throughout; information in bits; images in [0, 1].
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from efface.shapes import Labels, Logits

TINY = 1e-9


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
    x, y = images.double(), others.double()
    window = _gaussian(min(11, *(side - 1 + side % 2 for side in x.shape[2:])))
    weight = window.to(x).expand(x.shape[1], 1, *window.shape)

    def blur(values: Tensor) -> Tensor:
        return F.conv2d(values, weight, groups=values.shape[1])

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast).flatten(1).mean(1).float()


def _gaussian(size: int, sigma: float = 1.5) -> Float[Tensor, "S S"]:
    """Gaussian window that sums to 1."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    return torch.outer(line, line) / line.sum() ** 2
