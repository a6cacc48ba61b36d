"""Supervised contrastive loss: pull embeddings of one class together, push classes apart.

The paper trains its auxiliary classifiers with "a contrastive loss by pulling the same class together" (section 3.2.3)
and gives no formula; we take Khosla et al. (2020), equation 2 (L_out), from pytorch-metric-learning.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from efface.errors import ConfigError, expected
from efface.information.entropy import MISSING, full_precision
from efface.shapes import Labels, Scalar


def supervised_contrastive_loss(embeddings: Float[Tensor, "B E"], labels: Labels, temperature: float = 0.1) -> Scalar:
    """Return the supervised contrastive loss, averaged over the samples whose class occurs again in the batch.

    For such a sample i, with P(i) the others of its class:
    −mean_{p ∈ P(i)} log softmax_{j ≠ i}(cos(e_i, e_j) / temperature)_p.

    Source:
        Khosla et al. (2020), "Supervised contrastive learning", equation 2. Deviation: one view per image.

    Args:
        embeddings: Of any length; their direction alone counts.
        labels: Class indices; samples whose label is missing (-1) take no part, not even as negatives.
        temperature: Above 0.

    Returns:
        A loss in nats; 0, still attached to the embeddings, where no two samples share a class.

    Raises:
        ConfigError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ConfigError(expected("temperature", "a number larger than 0", temperature))
    known = labels != MISSING
    chosen, classes = full_precision(embeddings)[known], labels[known].long()
    # Distinct classes only, or too few samples: the library has nothing to pair.
    if len(classes.unique()) == len(classes):
        return (full_precision(embeddings) * 0).sum()

    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(temperature=temperature)(chosen, classes)


__all__ = ["supervised_contrastive_loss"]
