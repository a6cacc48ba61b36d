"""Removal heads: adversaries that estimate I(h;z), and the penalty that they put on the extractor.

A classifier gives a lower bound on I(h;z): minimising it proves nothing unless the classifier is at its best. The heads
are therefore several, of different kinds, and train on detached features before each step of the extractor
(THEORY, Estimators); ``ridge`` is solved in closed form. The penalty reaches the extractor with the heads' parameters
held fixed, or a moving average of them.
"""

from __future__ import annotations

import copy
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
        # Lists, not dictionaries of modules: an attribute may have any name, "type" and "hair.colour" included.
        self.names = tuple(priors)
        self.priors = nn.ParameterList(nn.Parameter(p.float(), requires_grad=False) for p in priors.values())
        kinds = [kind for kind in config.heads if kind != RIDGE]
        self.heads = nn.ModuleList(
            nn.ModuleList(self._build(kind, feature_shape, prior, config) for kind in kinds)
            for prior in priors.values()
        )
        self.averages = copy.deepcopy(self.heads).requires_grad_(False) if config.head_average else None
        solved = priors.values() if RIDGE in config.heads else ()
        self.solved = nn.ModuleList(RidgeHead(feature_shape, prior) for prior in solved)

    @staticmethod
    def _build(kind: str, feature_shape: Sequence[int], prior: Float[Tensor, "Y A"], config: MethodConfig) -> nn.Module:
        given, classes = prior.shape
        given = given if config.conditional_removal else 1
        return build_head(kind, feature_shape, classes, config.head_width, given)

    def forward(self, features: Features, batch: Batch) -> Terms:
        """Return the heads' own loss on detached features: cross-entropy, and the contrastive loss if asked for."""
        self._follow()
        losses: list[Tensor] = [features.sum() * 0]
        metrics: dict[str, Tensor] = {}
        for name, prior, logits, projection, labels in self._read(features, batch, fixed=False):
            losses.append(cross_entropy_rate(logits, labels))
            if self.config.training in ("contrastive", "contrastive_removal"):
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
        for name, head in zip(self.names, self.solved, strict=False):
            total[name] = total[name] + head(features, batch.attributes[name], batch.target)
        return total

    def _price(self, logits: Logits, labels: Labels, target: Labels, prior: Float[Tensor, "Y A"]) -> Scalar:
        """Price of one head's knowledge, by `method.removal`."""
        if self.config.removal == "confusion":
            return confusion_loss(logits, conditional_prior(prior, target))
        if self.config.removal == "reversal":
            return conditional_information_lower_bound(logits, labels, target, prior)
        return vclub_upper_bound(logits, labels, target if self.config.conditional_removal else None)

    def _read(
        self, features: Features, batch: Batch, fixed: bool
    ) -> Iterator[tuple[str, Tensor, Logits, Tensor, Labels]]:
        """Run every head; ``fixed`` holds its parameters, or their average: only features get a gradient."""
        rows = self.averages if fixed and self.averages is not None else self.heads
        for name, prior, heads in zip(self.names, self.priors, rows, strict=True):
            for head in heads.children():
                held = {key: value.detach() for key, value in head.named_parameters()} if fixed else {}
                logits, projection = functional_call(head, held, (features, batch.target))
                yield name, prior, logits, projection, batch.attributes[name]

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the averages follow the heads by a step."""
        if self.averages is not None and self.training:
            for slow, fast in zip(self.averages.parameters(), self.heads.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.head_average)

    def guesses(self, features: Features, batch: Batch) -> Iterator[tuple[str, int, Labels]]:
        """Yield (attribute, number of the head, its guesses)."""
        for name, heads in zip(self.names, self.heads, strict=True):
            for number, head in enumerate(heads.children()):
                yield name, number, head(features, batch.target)[0].argmax(1)

    def settle(self, batches: int) -> None:
        """Let the closed-form heads solve again, where that is due after so many batches."""
        for head in self.solved:
            head.settle(batches)  # type: ignore[operator]

    def restart(self, turn: int) -> list[nn.Parameter]:
        """Start one head of each attribute afresh, in turn; return its parameters."""
        renewed: list[nn.Parameter] = []
        for row, slow in zip(self.heads, self.averages or [None] * len(self.heads), strict=True):
            heads = list(row.children())
            if not heads:
                continue
            number = turn % len(heads)
            head = heads[number]
            for module in head.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
            if slow is not None:
                slow[number].load_state_dict(head.state_dict())  # type: ignore[index]
            renewed.extend(head.parameters())
        return renewed
