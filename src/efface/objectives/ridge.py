"""A removal head in closed form: ridge regression on running statistics of random features.

Heads that learn by gradient steps lag behind the extractor: it dodges them by turning what it tells of z, so that they
see nothing while a fresh attacker sees it. Least squares lags by its memory only. Its weights answer exactly to the
last tens of batches, and its price on the next batch, which they have not seen, is a held-out estimate.

Source: closed-form adversaries (Sadeghi, Yu and Boddeti, 2019); random features (Rahimi and Recht, 2007). Ours: running
moments over batches, and the price in nats: for a jointly Gaussian pair that shares a fraction ρ of its variance,
I = −½·ln(1−ρ) ≈ ½·ρ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.heads import as_map, map_shape
from efface.shapes import Features, Labels, Scalar

LINEAR, FILTERS, CELLS = 2048, 48, 3
"""Most linear features (more are projected at random), random filters, and cells per side they are averaged over."""

PERIOD = 4
"""Batches between two solutions, after the first few: the moments' memory is much longer."""

LARGE = 1600
"""Features beyond which twice as many batches lie between two solutions: their cost grows with the third power."""


class RidgeHead(nn.Module):
    """Predicts z − p(z|y) from features, linearly and through rectified random filters averaged over a grid of cells.

    Args:
        feature_shape: Shape of one sample's features.
        prior: p(z|y) ``[Y, A]``.
        decay: Share of the running moments that a batch leaves; 0.97 weighs about 60 batches.
        ridge: Added to the diagonal of the features' second moment, in units of a standardised feature's variance.
    """

    def __init__(
        self, feature_shape: Sequence[int], prior: Float[Tensor, "Y A"], decay: float = 0.97, ridge: float = 0.001
    ):
        super().__init__()
        inputs = math.prod(map_shape(feature_shape))
        linear = min(inputs, LINEAR)
        self.map_shape = map_shape(feature_shape)
        channels, height, columns = self.map_shape
        self.cells = (min(CELLS, height), min(CELLS, columns))
        size = linear + FILTERS * self.cells[0] * self.cells[1]
        self.decay, self.ridge, self.projects = decay, ridge, inputs > LINEAR
        buffers = {
            "prior": prior.float(),
            "mean": torch.zeros(inputs),
            "variance": torch.ones(inputs),
            "moments": torch.zeros(size, size),
            "crossed": torch.zeros(size, prior.shape[1]),
            "weights": torch.zeros(size, prior.shape[1]),
            "seen": torch.zeros(()),
            "filters": torch.randn(FILTERS, channels, 3, 3) / math.sqrt(9 * channels),
            "offset": torch.randn(FILTERS) / 2,
        }
        if self.projects:
            buffers["project"] = torch.randn(inputs, LINEAR) / math.sqrt(inputs)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, features: Features, attribute: Labels, target: Labels) -> Scalar:
        """Return the price of these features in nats; in training, take them into the running moments afterwards.

        The price is half the covariance of the prediction with z − p(z|y), as a share of the latter's variance: 0 where
        z can't be told. It is not the prediction's own variance, which the extractor lowers by making the telling
        directions small: that blinds a solution with a ridge, not one without.
        """
        with torch.autocast(features.device.type, enabled=False):
            flat = as_map(features).flatten(1).float()
            if self.training:
                self._standardise(flat.detach())
            inputs = self._expand(flat)
            residual, known = self._residual(attribute, target)
            price = self._price(inputs, residual)
            if self.training:
                self._remember(inputs.detach(), residual, known)
        return price

    def _expand(self, flat: Float[Tensor, "B F"]) -> Float[Tensor, "B S"]:
        """Standardise, project, and add the rectified random features."""
        buffer = self.get_buffer
        standard = (flat - buffer("mean")) * (buffer("variance") + 1e-4).rsqrt()
        linear = standard @ buffer("project") if self.projects else standard
        maps = standard.view(-1, *self.map_shape)
        local = F.relu(F.conv2d(maps, buffer("filters"), buffer("offset"), padding=1))
        return torch.cat([linear, F.adaptive_avg_pool2d(local, self.cells).flatten(1)], 1)

    def _residual(self, attribute: Labels, target: Labels) -> tuple[Float[Tensor, "B A"], Tensor]:
        """Z − p(z|y) as one-hot rows, and which of them are known."""
        prior = self.get_buffer("prior")
        known = (attribute >= 0) & (target >= 0)
        chosen = F.one_hot(attribute.clamp_min(0), prior.shape[1]).float()
        return (chosen - prior[target.clamp_min(0)]) * known[:, None], known

    def _price(self, inputs: Float[Tensor, "B S"], residual: Float[Tensor, "B A"]) -> Scalar:
        variance = residual.square().sum(1).mean().clamp_min(1e-6)
        told = (inputs @ self.get_buffer("weights") * residual).sum(1).mean()
        return 0.5 * told.clamp_min(0) / variance

    @torch.no_grad()
    def settle(self, batches: int) -> None:
        """Solve again if that is due: the weights become the least squares of the running moments.

        Not part of ``forward``, which thus asks the device nothing and can be replayed as a CUDA graph. Call it between
        batches: a backward pass under way still needs the former weights.

        Args:
            batches: How many the head has been given in training.
        """
        moments, crossed = self.get_buffer("moments"), self.get_buffer("crossed")
        period = PERIOD if len(moments) <= LARGE else 2 * PERIOD
        if not batches or (batches >= period and batches % period):
            return
        # Young averages are shrunk towards 0 by the decay: undo it.
        scale = 1 / self.get_buffer("seen")
        diagonal = self.ridge * torch.eye(len(moments), device=moments.device)
        factor, failed = torch.linalg.cholesky_ex((moments * scale + diagonal).double())
        solution = torch.cholesky_solve((crossed * scale).double(), factor).float()
        # Moments that are not finite can't be solved: the loss isn't finite either, and the ledger says so.
        self.get_buffer("weights").copy_(torch.where(failed > 0, torch.nan, solution))

    @torch.no_grad()
    def _standardise(self, flat: Float[Tensor, "B F"]) -> None:
        """Move the running mean and variance of the features towards this batch's; the first batch's are taken over."""
        share = torch.where(self.get_buffer("seen") > 0, 1 - self.decay, 1.0)
        self.get_buffer("mean").lerp_(flat.mean(0), share)
        self.get_buffer("variance").lerp_(flat.var(0, correction=0), share)

    @torch.no_grad()
    def _remember(self, inputs: Float[Tensor, "B S"], residual: Float[Tensor, "B A"], known: Tensor) -> None:
        """Move the running second moments towards this batch's, over the images whose labels are known."""
        weighted = inputs * ((1 - self.decay) * known / known.sum().clamp_min(1))[:, None]
        self.get_buffer("moments").mul_(self.decay).addmm_(weighted.T, inputs)
        self.get_buffer("crossed").mul_(self.decay).addmm_(weighted.T, residual)
        self.get_buffer("seen").mul_(self.decay).add_(1 - self.decay)
