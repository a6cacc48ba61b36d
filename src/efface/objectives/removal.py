"""Removal heads: adversaries that estimate I(h;z), and the penalty that they put on the extractor.

A classifier gives a lower bound on I(h;z): minimising it proves nothing unless the classifier is at its best. The heads
are therefore several, of different kinds, and train on detached features before each step of the extractor
(THEORY, Estimators); ``ridge`` is solved in closed form. The penalty reaches the extractor with the heads' parameters
held fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.heads import build_head
from efface.information import (
    bits,
    conditional_information_lower_bound,
    conditional_prior,
    confusion_loss,
    cross_entropy_rate,
    supervised_contrastive_loss,
    vclub_upper_bound,
)
from efface.objectives.ridge import RidgeHead
from efface.objectives.terms import Terms
from efface.shapes import Features, Labels, Logits, Scalar

RIDGE = "ridge"
"""The kind of head that is solved, not trained."""


class RemovalHeads(nn.Module):
    """Several heads per attribute, trained to find it.

    Args:
        feature_shape: Shape of one sample's features.
        priors: ``{attribute: [Y, A]}`` p(z|y) of the training data; the ``paper`` variant gives equal rows p(z).
        config: Kinds of heads, their width and training.
    """

    def __init__(self, feature_shape: Sequence[int], priors: Mapping[str, Float[Tensor, "Y A"]], config: MethodConfig):
        super().__init__()
        self.config = config
        self.priors = nn.ParameterDict({n: nn.Parameter(p.float(), requires_grad=False) for n, p in priors.items()})
        self.heads = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    build_head(
                        kind,
                        feature_shape,
                        classes=prior.shape[1],
                        width=config.head_width,
                        given=prior.shape[0] if config.variant == "conditional" else 1,
                    )
                    for kind in config.heads
                    if kind != RIDGE
                )
                for name, prior in priors.items()
            }
        )
        solved = priors.items() if RIDGE in config.heads else ()
        self.solved = nn.ModuleDict({name: RidgeHead(feature_shape, prior) for name, prior in solved})

    def forward(self, features: Features, batch: Batch) -> Terms:
        """Return the heads' own loss on detached features: cross-entropy, and the contrastive loss if asked for."""
        losses: list[Tensor] = [features.sum() * 0]
        metrics: dict[str, Tensor] = {}
        for name, prior, logits, projection, labels in self._read(features, batch, fixed=False):
            losses.append(cross_entropy_rate(logits, labels))
            if self.config.training == "contrastive":
                losses.append(supervised_contrastive_loss(projection, labels, self.config.temperature))
            found = conditional_information_lower_bound(logits.detach(), labels, batch.target, prior)
            key = f"removal_bits/{name}"
            metrics[key] = torch.maximum(metrics[key], bits(found)) if key in metrics else bits(found)
        return Terms(torch.stack(losses).sum(), metrics)

    def penalty(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return per attribute what the extractor pays, in nats: to the trained heads on average, and to the solved."""
        paid: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for name, prior, logits, _, labels in self._read(features, batch, fixed=True):
            paid[name].append(self._price(logits, labels, batch.target, prior))
        total = {name: torch.stack(prices).mean() if prices else features.sum() * 0 for name, prices in paid.items()}
        for name, head in self.solved.items():
            total[name] = total[name] + head(features, batch.attributes[name], batch.target)
        return total

    def _price(self, logits: Logits, labels: Labels, target: Labels, prior: Float[Tensor, "Y A"]) -> Scalar:
        """Price of one head's knowledge, by `method.removal`."""
        if self.config.removal == "confusion":
            return confusion_loss(logits, conditional_prior(prior, target))
        if self.config.removal == "reversal":
            return conditional_information_lower_bound(logits, labels, target, prior)
        return vclub_upper_bound(logits, labels, target if self.config.variant == "conditional" else None)

    def _read(
        self, features: Features, batch: Batch, fixed: bool
    ) -> Iterator[tuple[str, Tensor, Logits, Tensor, Labels]]:
        """Run every head; ``fixed`` holds its parameters, so that only features get a gradient."""
        for name in self.names:
            for head in self._heads_of(name):
                held = {key: value.detach() for key, value in head.named_parameters()} if fixed else {}
                logits, projection = functional_call(head, held, (features, batch.target))
                yield name, self.priors[name], logits, projection, batch.attributes[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes."""
        return tuple(self.heads)

    def _heads_of(self, name: str) -> list[nn.Module]:
        """The trained heads of an attribute."""
        return list(self.heads[name].children())

    def guesses(self, features: Features, batch: Batch) -> Iterator[tuple[str, int, Labels]]:
        """Yield (attribute, number of the head, its guesses)."""
        for name in self.names:
            for number, head in enumerate(self._heads_of(name)):
                yield name, number, head(features, batch.target)[0].argmax(1)

    def restart(self, turn: int) -> list[nn.Parameter]:
        """Start one head of each attribute afresh, in turn; return its parameters."""
        renewed: list[nn.Parameter] = []
        for heads in map(self._heads_of, self.names):
            if not heads:
                continue
            head = heads[turn % len(heads)]
            for module in head.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
            renewed.extend(head.parameters())
        return renewed
