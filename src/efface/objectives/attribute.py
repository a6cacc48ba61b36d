"""The loss of a classifier that is trained to find an attribute."""

from __future__ import annotations

from torch import nn

from efface.data.batches import Batch
from efface.information import cross_entropy_rate
from efface.objectives.terms import Terms
from efface.shapes import Features, Progress


class AttributeObjective(nn.Module):
    """Cross-entropy of an attribute.

    Args:
        name: The attribute; images without its label are left out.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss; ``features`` are the classifier's logits ``[B, A]``."""
        del progress
        loss = cross_entropy_rate(features.float(), batch.attributes[self.name])
        return Terms(loss, {f"loss/attribute/{self.name}": loss.detach()})


__all__ = ["AttributeObjective"]
