"""Removal heads whose uncertainty is raised: maximum entropy instead of agreement with p(z|y).

Source: Roy and Boddeti (2019), *Mitigating information leakage in image representations: a maximum entropy approach*,
equation 6.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from efface.information import distribution_entropy
from efface.objectives.removal import RemovalHeads
from efface.shapes import Labels, Logits, Scalar


def entropy_gap(logits: Logits) -> Scalar:
    """Return log A − H(q) in nats, averaged: KL(q ‖ uniform), 0 where the head has no preference at all.

    Example:
        >>> import torch
        >>> float(entropy_gap(torch.zeros(4, 5)).abs() < 1e-6)
        1.0
    """
    return math.log(logits.shape[1]) - distribution_entropy(logits.float().softmax(1)).mean()


class EntropyHeads(RemovalHeads):
    """Removal heads that price their own certainty, right or wrong; labels that are missing are priced as well."""

    def _price(self, logits: Logits, labels: Labels, target: Labels, prior: Float[Tensor, "Y A"]) -> Scalar:
        del labels, target, prior
        return entropy_gap(logits)


__all__ = ["EntropyHeads", "entropy_gap"]
