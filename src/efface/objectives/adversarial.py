"""One backward for the extractor and its adversaries: gradient reversal, alone or with an entropy term.

Source: Ganin and Lempitsky (2015), equations 4 to 8; Kim et al. (2019), *Learning not to learn*, equations 5 and 6.
Deviation: the strength rises linearly over ``warmup`` and not as 2/(1 + exp(−10p)) − 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.data.schema import Schema
from efface.heads.reversal import reverse_gradient
from efface.objectives.detachment import DetachmentObjective, weighed
from efface.objectives.entropy import EntropyHeads
from efface.objectives.removal import RemovalHeads
from efface.objectives.terms import Terms
from efface.shapes import Features, Labels, Progress, warmed


class AdversarialObjective(nn.Module):
    """Loss of the target plus that of the heads, which reaches the features with its sign turned.

    The heads learn in the same step and with the same optimiser as the block, as published. Their own gradient is that
    of their cross-entropy, whatever the weights; the features get −weight times theirs.

    Args:
        feature_shape: Shape of one sample's features.
        image_shape: Channels, height, width.
        schema: Target and attributes.
        priors: ``{attribute: [Y, A]}`` p(z|y).
        config: Weights; kinds of heads.
        entropy_weight: On log A − H(q), paid by the features alone.
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        schema: Schema,
        priors: Mapping[str, Float[Tensor, "Y A"]],
        config: MethodConfig,
        entropy_weight: float = 0.0,
    ):
        super().__init__()
        self.config, self.entropy_weight = config, entropy_weight
        self.names = tuple(priors)
        nothing = without_heads(feature_shape, priors, config)
        self.kept = DetachmentObjective(feature_shape, image_shape, schema, nothing, config)
        # One set of heads per attribute: each has its own strength.
        self.heads = nn.ModuleList(EntropyHeads(feature_shape, {n: p}, config) for n, p in priors.items())

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss at this share of training (0 to 1)."""
        terms: Terms = self.kept(features, batch, progress)
        total, metrics = terms.total, dict(terms.metrics)
        metrics = {name: value for name, value in metrics.items() if not name.startswith("penalty_nats/")}
        share = warmed(progress, self.config.warmup)
        for name, heads in zip(self.names, self.heads, strict=True):
            weight = share * self.config.attribute_weights.get(name, 1.0)
            found: Terms = heads(reverse_gradient(features, weight * self.config.removal_weight), batch)
            total = total + found.total
            metrics |= found.metrics | {f"loss/adversary/{name}": found.total.detach()}
            if self.entropy_weight:
                assert isinstance(heads, EntropyHeads)
                gap = heads.penalty(features, batch)[name]
                total = total + weighed(weight * self.entropy_weight, gap)
                metrics[f"entropy_gap_nats/{name}"] = gap.detach()
        metrics["loss/extractor"] = total.detach()
        return Terms(total, metrics)

    def guesses(self, features: Features, batch: Batch) -> Iterator[tuple[str, int, Labels]]:
        """Yield (attribute, number of the head, its guesses)."""
        for heads in self.heads:
            assert isinstance(heads, EntropyHeads)
            yield from heads.guesses(features, batch)


def without_heads(
    feature_shape: Sequence[int], priors: Mapping[str, Float[Tensor, "Y A"]], config: MethodConfig
) -> RemovalHeads:
    """Return removal heads that are none: every price is 0, nothing learns."""
    return RemovalHeads(feature_shape, priors, config.model_copy(update={"heads": ()}))


__all__ = ["AdversarialObjective", "without_heads"]
