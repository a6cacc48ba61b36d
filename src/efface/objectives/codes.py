"""The best adversary of a finite code needs no network: a table of how often each z came with each code.

For a code c of M values, I(c;z|y) = E[log p(z|c,y) − log p(z|y)], and its gradient in p(c|x) is that same logarithm:
what p(z|c,y) itself depends on cancels. So a running table prices every code, and the gradient reaches the extractor
through the assignment to codes. The table is the attacker that the certificate counts
(Σ_c max_z p(c,z)); no other attacker of the code can know more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.heads.quantiser import Quantiser
from efface.objectives.removal import RemovalHeads
from efface.shapes import Features, Labels, Scalar

PSEUDO = 0.5
"""Images that each pair (code, y) of the table is taken to have seen already, distributed as p(z|y)."""


class CodeHeads(RemovalHeads):
    """Removal heads on what a quantiser releases, and a running table of its codes.

    Args:
        quantiser: The layer; read in the same step in which it ran.
        feature_shape: Shape of one sample's features.
        priors: ``{attribute: [Y, A]}`` p(z|y); equal rows p(z) in the ``paper`` variant.
        config: Heads, and the weight of the table.
        decay: Share of the counts that a batch leaves; 0.99 weighs 100 batches.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        feature_shape: Sequence[int],
        priors: Mapping[str, Float[Tensor, "Y A"]],
        config: MethodConfig,
        decay: float = 0.99,
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


__all__ = ["PSEUDO", "CodeHeads"]
