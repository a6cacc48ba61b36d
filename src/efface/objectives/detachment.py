"""The representation detachment loss, and the plain loss of the block on top.

Source: section 3.2 of the paper with the sign of THEORY's claim 1:
−input_weight·I(h;x) − target_weight·I(h;y) + removal_weight·I(h;z). The ``conditional`` variant puts I(h;x|z) and
I(h;z|y) in place of I(h;x) and I(h;z) (THEORY, two repairs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.data.schema import Column, Schema
from efface.heads import build_head
from efface.information import (
    bits,
    cross_entropy_rate,
    distribution_entropy,
    information_lower_bound,
    supervised_contrastive_loss,
)
from efface.objectives.keeping import build_keeping
from efface.objectives.removal import RemovalHeads
from efface.objectives.terms import Terms
from efface.shapes import Features, Labels, Progress, Scalar, warmed


def weighed(weight: Progress, loss: Scalar) -> Scalar:
    """Return a loss times a weight; a weight that is a tensor is rounded to the loss's type first, as a number is."""
    return (weight.to(loss.dtype) if isinstance(weight, Tensor) else weight) * loss


class DetachmentObjective(nn.Module):
    """Loss of a block whose features are released: keep the image and the target, drop the attributes.

    Holds the decoder, the target head and a head for each column to preserve, which learn with the block; the removal
    heads learn on their own.

    Args:
        feature_shape: Shape of one sample's features.
        image_shape: Channels, height, width.
        schema: Target and attributes.
        removal: The adversaries; not a submodule, since another loss trains them.
        config: Weights, variant and sizes.
        before: The blocks below the cut as they are before unlearning, for ``keep: features``.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        schema: Schema,
        removal: RemovalHeads,
        config: MethodConfig,
        before: Sequence[nn.Module] = (),
    ):
        super().__init__()
        self.config = config
        self.names = tuple(column.name for column in schema.attributes)
        self.conditional = config.conditional_decoder
        given = [column.n_classes for column in schema.attributes] if self.conditional else []
        self.keeping = build_keeping(feature_shape, image_shape, config, given, before)
        self.target_head = build_head("conv", feature_shape, schema.target.n_classes, config.head_width)
        self.preserved = tuple(column.name for column in schema.preserved)
        self.preserved_classes = tuple(column.n_classes for column in schema.preserved)
        self.preserving_heads = nn.ModuleList(
            build_head("conv", feature_shape, column.n_classes, config.head_width) for column in schema.preserved
        )
        # Per entropy, a column with rare classes, such as glasses, pulls as hard as a balanced one.
        entropies = [distribution_entropy(_shares(column)) for column in schema.preserved]
        self.register_buffer("preserved_entropies", torch.tensor(entropies), persistent=False)
        self.register_buffer("target_prior", _shares(schema.target))
        # In a tuple the adversaries stay out of this module's parameters and state.
        self._removal = (removal,)

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss at this share of training (0 to 1)."""
        metrics: dict[str, Tensor] = {}
        total = self.config.target_weight * self._target_loss(features, batch, metrics)
        entropies = self.get_buffer("preserved_entropies")
        for number, (name, entropy) in enumerate(zip(self.preserved, entropies, strict=True)):
            loss = self._kept_loss(number, features, batch.attributes[name]) / entropy
            metrics[f"loss/preserve/{name}"] = loss.detach()
            total = total + self.config.preserve_weight * loss
        if self.keeping is not None:
            given = [batch.attributes[name] for name in self.names] if self.conditional else []
            error = self.keeping(features, batch, given)
            metrics[self.keeping.metric] = error.detach()
            total = total + self.config.input_weight * error
        share = warmed(progress, self.config.warmup)
        for name, price in self._removal[0].penalty(features, batch).items():
            metrics[f"penalty_nats/{name}"] = price.detach()
            weight = share * self.config.removal_weight * self.config.attribute_weights.get(name, 1.0)
            total = total + weighed(weight, price)
        metrics["removal_weight"] = torch.as_tensor(share * self.config.removal_weight)
        metrics["loss/extractor"] = total.detach()
        return Terms(total, metrics)

    def _target_loss(self, features: Features, batch: Batch, metrics: dict[str, Tensor]) -> Scalar:
        """−I(h;y) up to H(y), by the target head; contrastive training pulls the same class together."""
        logits, projection = self.target_head(features)
        loss = F.cross_entropy(logits, batch.target)
        prior = self.get_buffer("target_prior")
        metrics["target_bits"] = bits(information_lower_bound(logits.detach(), batch.target, prior))
        if self.config.training in ("contrastive", "contrastive_target"):
            loss = loss + supervised_contrastive_loss(projection, batch.target, self.config.temperature)
        return loss

    def _kept_loss(self, number: int, features: Features, labels: Labels) -> Scalar:
        """−I(h;c) up to H(c) of a column to preserve, by its head."""
        return cross_entropy_rate(self.preserving_heads[number](features)[0], labels)


class ClassifierObjective(nn.Module):
    """Cross-entropy of the target: the loss of the last block, and of the original model.

    Args:
        label_smoothing: Share of the label spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss; ``features`` are the model's logits ``[B, Y]``."""
        del progress
        loss = F.cross_entropy(features.float(), batch.target, label_smoothing=self.label_smoothing)
        return Terms(loss, {"loss/classifier": loss.detach()})


class SilentObjective(nn.Module):
    """No loss of its own: an inner block that learns end to end from the block on top."""

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return zero."""
        del features, progress
        return Terms(torch.zeros((), device=batch.target.device))


def _shares(column: Column) -> Float[Tensor, " A"]:
    """Return p(class) in the train split."""
    counts = torch.tensor(column.counts["train"], dtype=torch.float)
    return counts / counts.sum()
