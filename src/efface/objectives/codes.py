"""The best adversary of a finite code needs no network: a table of how often each z came with each code.

For a code c of M values, I(c;z|y) = E[log p(z|c,y) − log p(z|y)], and its gradient in p(c|x) is that same logarithm:
what p(z|c,y) itself depends on cancels. So a running table prices every code, and the gradient reaches the extractor
through the assignment to codes. The table is the attacker that the certificate counts
(Σ_c max_z p(c,z)); no other attacker of the code can know more.

The same for the target and for columns to keep, with the other sign: −log p(y|c). A head reads what was released,
rounded, and has the same gradient for whoever lies just within a code and for whoever lies far inside; here the one at
the edge is pulled most, and what is learned keeps off the edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.heads.quantiser import Quantiser
from efface.objectives.detachment import DetachmentObjective
from efface.objectives.removal import RemovalHeads
from efface.shapes import Features, Labels, Scalar

PSEUDO = 0.5
"""Images that each pair (code, y) of the table is taken to have seen already, distributed as p(z|y)."""

DECAY = 0.99
"""Share of the counts that a batch leaves: they weigh the last 100 batches or so."""


class CodeHeads(RemovalHeads):
    """Removal heads on what a quantiser releases, and a running table of its codes.

    Args:
        quantiser: The layer; read in the same step in which it ran.
        feature_shape: Shape of one sample's features.
        priors: ``{attribute: [Y, A]}`` p(z|y); equal rows p(z) in the ``paper`` variant.
        config: Heads, and the weight of the table.
        decay: Share of the counts that a batch leaves.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        feature_shape: Sequence[int],
        priors: Mapping[str, Float[Tensor, "Y A"]],
        config: MethodConfig,
        decay: float = DECAY,
    ):
        super().__init__(feature_shape, priors, config)
        # In a tuple the quantiser stays the block's: no adversary may train it.
        self._quantiser = (quantiser,)
        self.decay = decay
        for number, prior in enumerate(priors.values()):
            self.register_buffer(f"counts{number}", torch.zeros(quantiser.n_codes, *prior.shape))

    def penalty(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return what the heads charge plus, times its weight, what the table charges, per attribute in nats."""
        prices = super().penalty(features, batch)
        assignment, weight = self._quantiser[0].latest, self.config.code.table_weight
        if assignment is None or not weight:
            return prices
        given = batch.target if self.config.conditional_removal else torch.zeros_like(batch.target)
        for number, name in enumerate(self.names):
            price = self._table_price(number, assignment, batch.attributes[name], given)
            prices[name] = prices[name] + weight * price
        return prices

    def _table_price(self, number: int, assignment: Float[Tensor, "B M"], labels: Labels, given: Labels) -> Scalar:
        """Price a batch by the table as it was before, then count the batch."""
        prior, counts = list(self.priors)[number].detach(), self.get_buffer(f"counts{number}")
        known = (labels >= 0) & (given >= 0)
        z, y = labels.clamp_min(0), given.clamp_min(0)
        taken = assignment * known[:, None]
        with torch.no_grad():
            smooth = counts + PSEUDO * prior
            told = (smooth / smooth.sum(2, keepdim=True)).log() - prior.log()
            prices = told[:, y, z].T
        price = (taken * prices).sum() / known.sum().clamp(min=1)
        if self.training:
            with torch.no_grad():
                pair = F.one_hot(y * prior.shape[1] + z, prior.numel()).to(taken.dtype)
                counts.mul_(self.decay).add_((taken.detach().T @ pair).view_as(counts))
        return price


class CodedObjective(DetachmentObjective):
    """The detachment loss of what a quantiser releases, and running tables of the target and kept columns by code.

    Args:
        quantiser: The layer; read in the same step in which it ran.
        arguments: Those of `DetachmentObjective`; of its ``config``, ``code.target_table`` and ``code.kept_table`` are
            the weights of the tables beside the heads.
        decay: Share of the counts that a batch leaves.
    """

    def __init__(self, quantiser: Quantiser, *arguments: Any, decay: float = DECAY):
        super().__init__(*arguments)
        # In a tuple the quantiser stays the block's.
        self._quantiser = (quantiser,)
        self.decay = decay
        self.register_buffer("answers", torch.zeros(quantiser.n_codes, len(self.get_buffer("target_prior"))))
        for number, classes in enumerate(self.preserved_classes):
            self.register_buffer(f"answers{number}", torch.zeros(quantiser.n_codes, classes))

    def _target_loss(self, features: Features, batch: Batch, metrics: dict[str, Tensor]) -> Scalar:
        """Return the head's loss and, times its weight, the table's."""
        loss, weight = super()._target_loss(features, batch, metrics), self.config.code.target_table
        return self._with_table(loss, weight, "answers", self.get_buffer("target_prior"), batch.target)

    def _kept_loss(self, number: int, features: Features, labels: Labels) -> Scalar:
        """Return the head's loss and, times its weight, the table's."""
        loss, weight = super()._kept_loss(number, features, labels), self.config.code.kept_table
        classes = self.preserved_classes[number]
        even = torch.full((classes,), 1 / classes, device=features.device)
        return self._with_table(loss, weight, f"answers{number}", even, labels)

    def _with_table(self, loss: Scalar, weight: float, name: str, prior: Float[Tensor, " A"], labels: Labels) -> Scalar:
        assignment = self._quantiser[0].latest
        if assignment is None or not weight:
            return loss
        return loss + weight * self._table_loss(name, prior, assignment, labels)

    def _table_loss(
        self, name: str, prior: Float[Tensor, " A"], assignment: Float[Tensor, "B M"], labels: Labels
    ) -> Scalar:
        """Return −log p(label|c) in nats by the table as it was before, then count the batch."""
        counts, known = self.get_buffer(name), labels >= 0
        some = labels.clamp_min(0)
        with torch.no_grad():
            smooth = counts + PSEUDO * prior
            surprise = -(smooth / smooth.sum(1, keepdim=True)).log()
        each = (assignment * surprise[:, some].T).sum(1)
        loss = (each * known).sum() / known.sum().clamp(min=1)
        if self.training:
            with torch.no_grad():
                told = F.one_hot(some, counts.shape[1]).to(assignment.dtype) * known[:, None]
                counts.mul_(self.decay).add_(assignment.detach().T @ told)
        return loss


__all__ = ["PSEUDO", "CodeHeads", "CodedObjective"]
