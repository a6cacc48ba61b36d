"""vCLUB: an estimate of I(h;z) from above, for a discrete z, from a classifier's logits. All values in nats.

    vCLUB = E_{p(h,z)}[log q(z|h)] − E_{p(h)p(z)}[log q(z|h)]        (Cheng et al., 2020, equation 13)

With the true posterior q = p(z|h) it exceeds I(h;z) by exactly KL(p(h)p(z) ‖ p(h,z)) ≥ 0. With another q it need not be
a bound at all: a q that ignores h gives 0 whatever I(h;z) is. So train q well, and believe a fresh attacker.

Both forms average over *all* pairs of a batch instead of drawing one negative per sample: the same expectation without
the draw's variance, for [B, B] numbers.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from efface.information.entropy import MISSING, full_precision
from efface.shapes import Labels, Logits, Scalar


def vclub_upper_bound(logits: Logits, z: Labels, given: Labels | None = None) -> Scalar:
    """Estimate I(h;z), or I(h;z|y) where ``given`` is y, from above, in nats.

    Every z of the batch is paired with every h; with ``given``, within the same y only, so that a sample alone in its
    class of y adds 0. Never negative in expectation for the true posterior, but it can be for a q that is wrong.

    Args:
        logits: Of q(z|h), or of q(z|h,y) with ``given``.
        z: Attribute labels.
        given: Target labels y; None for the marginal form.

    Returns:
        The estimate over samples without a missing label (-1); 0 if there are none.
    """
    known = z != MISSING
    paired = known[:, None] & known[None, :]
    if given is not None:
        seen = given != MISSING
        paired = paired & (given[:, None] == given[None, :]) & seen[:, None]
    return _all_pairs(logits, z, paired)


def _all_pairs(logits: Logits, z: Labels, paired: Bool[Tensor, "B B"]) -> Scalar:
    """Mean over i of log q(z_i|h_i) less its mean over the j paired with i of log q(z_j|h_i)."""
    log_q = F.log_softmax(full_precision(logits), dim=-1)
    pairs = log_q[:, z.clamp(min=0).long()]  # [i, j]: log q(z_j | h_i)
    # `where`, not a product: −inf for a class ruled out must not turn a pair left out into nan.
    negative = torch.where(paired, pairs, 0.0).sum(1) / paired.sum(1).clamp(min=1)
    known = paired.diagonal()
    positive = torch.where(known, pairs.diagonal(), 0.0)
    return (positive - negative).sum() / known.sum().clamp(min=1)


__all__ = ["vclub_upper_bound"]
