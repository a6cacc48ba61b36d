"""Leading principal components of pooled features, for attackers that many numbers make slow or blind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from efface.audit.attackers.base import FeatureView
from efface.audit.store import summarise
from efface.shapes import Labels

Table = Float[np.ndarray, "n K"]
FITTED_ON = 20_000
"""Most people that principal components are computed from, the same for all attackers."""
KEPT = 128
"""Axes that are computed at least, so that attackers that want several numbers of them share one computation."""
CHUNK = 4096


@dataclass(frozen=True)
class Components:
    """Principal components of the training people's pooled features; few numbers stay as they are.

    Attributes:
        mean: ``[F]``.
        axes: ``[F, K]``, by falling variance; or None: no rotation.
    """

    mean: Float[Tensor, " F"]
    axes: Float[Tensor, "F K"] | None

    @classmethod
    def fit(cls, view: FeatureView, most: int, always: bool = False) -> Components:
        """Return at most so many components; features that are no wider are left unrotated, unless ``always``.

        They are kept with the features: whoever asks again, of the same people, gets those.
        """
        people = some_people(view, FITTED_ON, 0)
        width = view.source.pooled.shape[1]
        if width <= most and not always:
            return cls(view.pooled(people).mean(0), None)
        kept, key = view.source.rotations, hashlib.sha256(view.rows[people.numpy()].tobytes()).hexdigest()
        if key not in kept or kept[key][1].shape[1] < min(most, width):
            kept[key] = _leading_axes(view.pooled(people), min(max(most, KEPT), width))
        mean, axes = kept[key]
        return cls(mean, axes[:, :most].contiguous())

    def of(self, view: FeatureView, people: Int[Tensor, " n"] | None = None) -> Table:
        """Return the components of some people, or all."""
        people = torch.arange(len(view)) if people is None else people
        parts = [self._of(view.pooled(part)) for part in people.split(CHUNK)]
        return torch.cat(parts).numpy()

    def _of(self, pooled: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        centred = pooled - self.mean
        return centred if self.axes is None else centred @ self.axes


def _leading_axes(pooled: Float[Tensor, "n F"], most: int) -> tuple[Float[Tensor, " F"], Float[Tensor, "F K"]]:
    """Return the mean of all people, and the axes of most variance, from most to least."""
    from scipy.linalg import eigh

    mean = pooled.mean(0)
    centred = pooled - mean
    covariance = (centred.T @ centred / len(centred)).cpu().numpy()
    width = len(covariance)
    # Some of the axes take a third of the time of all.
    _, axes = eigh(covariance, subset_by_index=(width - most, width - 1), overwrite_a=True)
    return mean, torch.from_numpy(axes).to(pooled).flip(1)


def summary_width(shape: tuple[int, ...]) -> int:
    """Return how many numbers pooled features are.

    Example:
        >>> summary_width((64, 8, 8)), summary_width((512,))
        (1216, 512)
    """
    return summarise(torch.empty(1, *shape, device="meta")).shape[1]


def rotation_seconds(people: int, width: int, most: int) -> float:
    """Return about how long principal components take on one core; nothing where features are no wider than them."""
    return min(people, FITTED_ON) * width**2 / 6e10 + width**3 / 2e10 if width > most else 0.0


def pool(views: Sequence[FeatureView]) -> None:
    """Compute everybody's pooled features; they are kept with the features."""
    for view in views:
        _ = view.source.pooled


def some_people(view: FeatureView, most: int, seed: int) -> Int[Tensor, " n"]:
    """Return the places of at most so many people, drawn by seed, in rising order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(view), generator=generator)[:most].sort().values


def log_shares(shares: Float[np.ndarray, "n A"]) -> Float[Tensor, "n A"]:
    """Return logarithms of probabilities, none below 10⁻⁶, as logits."""
    return torch.from_numpy(np.log(np.maximum(shares, 1e-6))).float()


def class_shares(labels: Labels, classes: int) -> Float[np.ndarray, " A"]:
    """Return the share of each class; absent ones count as half a person."""
    counts = np.maximum(np.bincount(labels.numpy(), minlength=classes), 0.5)
    return counts / counts.sum()
