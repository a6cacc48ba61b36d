"""A price without any head: the normalised HSIC of features and attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.heads import as_map
from efface.information.hsic import normalised_hsic
from efface.objectives.detachment import DetachmentObjective
from efface.objectives.removal import RemovalHeads
from efface.objectives.terms import Terms
from efface.shapes import Features, Progress, Scalar


class DependencePenalty(RemovalHeads):
    """Prices h by its normalised HSIC with z, within each y in the ``conditional`` variant. Nothing to train.

    Args:
        feature_shape: Shape of one sample's features.
        priors: ``{attribute: [Y, A]}``; their names are used.
        config: The variant.
    """

    def __init__(self, feature_shape: Sequence[int], priors: Mapping[str, Float[Tensor, "Y A"]], config: MethodConfig):
        super().__init__(feature_shape, priors, config.model_copy(update={"heads": ()}))

    def penalty(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the normalised HSIC per attribute, a number without unit."""
        with torch.autocast(features.device.type, enabled=False):
            flat = as_map(features).flatten(1).float()
            given = batch.target if self.config.conditional_removal else None
            numbers = batch.numbers
            return {n: normalised_hsic(flat, batch.attributes[n], given, numbers.get(n)) for n in self.names}


class DependenceObjective(DetachmentObjective):
    """The detachment loss with this price: its figures are named ``hsic/…``, for they are no nats."""

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss at this share of training (0 to 1)."""
        terms = super().forward(features, batch, progress)
        metrics = {name.replace("penalty_nats/", "hsic/"): value for name, value in terms.metrics.items()}
        return Terms(terms.total, metrics)


__all__ = ["DependenceObjective", "DependencePenalty"]
