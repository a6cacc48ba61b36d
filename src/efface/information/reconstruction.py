"""I(h;x) through a decoder: its reconstruction loss, in nats per image.

I(h;x) = H(x) − H(x|h), and H(x) does not depend on h: the lower a decoder's expected code length of x given h, the
larger the estimate of I(h;x), from below. The code length is the binary cross-entropy (the paper, section 3.2.3), which
for pixel values in [0, 1] is exactly the nats that it takes to code a one-bit dithering b ~ Bernoulli(x) of each pixel.

It is *summed* over channels and pixels, not averaged. The weights of the objective multiply nats of information, and z
is dropped only for removal_weight > input_weight (docs/theory.md, claim 2); against a mean over 3·64·64 values the same
number would mean a trade 12,288 times as cheap.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from efface.errors import ShapeError, expected
from efface.information.entropy import full_precision
from efface.shapes import Images, Scalar


def reconstruction_nats(logits: Images, images: Float[Tensor, "*shape"]) -> Scalar:
    """Return the binary cross-entropy of a reconstruction, summed per image, averaged over the batch, in nats.

    Computed in float32 (float64 if given) under autocast too: a sum over 12,288 values needs the digits.

    Args:
        logits: Of the reconstructed pixels, before the sigmoid, ``[B, C, H, W]``.
        images: What is to be reconstructed, ``[B, C, H, W]`` in [0, 1].

    Raises:
        ShapeError: The two differ in shape.
    """
    if logits.shape != images.shape:
        raise ShapeError(expected("logits", f"of the images' shape {tuple(images.shape)}", tuple(logits.shape)))
    values = full_precision(logits)
    return F.binary_cross_entropy_with_logits(values, images.to(values.dtype), reduction="sum") / max(len(images), 1)


def reconstruction_floor_nats(images: Images) -> Scalar:
    """Return the least value :func:`reconstruction_nats` can take on these images, that of a perfect decoder, in nats.

    It is Σ H(Bernoulli(pixel)), averaged over the batch: not 0, since pixels are not all black or white. What the loss
    exceeds it by is the KL divergence of the reconstruction.

    Args:
        images: ``[B, C, H, W]`` in [0, 1].
    """
    values = full_precision(images)
    both = torch.special.entr(values) + torch.special.entr(1 - values)
    return both.sum() / max(len(images), 1)


__all__ = ["reconstruction_floor_nats", "reconstruction_nats"]
