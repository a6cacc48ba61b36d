"""Features at rest: ``.npy`` files, read batch by batch; and what standardises them.

They are float32, as released: rounding hides from attackers what a release tells in directions of little variance
(docs/attackers/least-squares.md). Where an audit asks for bf16 the files hold its 16 bits as int16, since numpy has no
bf16; channels whose mean is far from 0 in units of their spread are then stored as differences from it, for bf16 keeps
8 bits and would round their variation away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor
from torch.nn import functional as F

from efface.shapes import Features

FeatureBits: TypeAlias = Int16[np.ndarray, "n *D"]
"""Features of n people as the 16 bits of bf16."""
FeatureArray: TypeAlias = Float[np.ndarray, "n *D"]
CHUNK = 1024


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of the channels within one sample: first in maps, last in tokens and vectors.

    Example:
        >>> channel_axis((128, 8, 8)), channel_axis((65, 192)), channel_axis((512,))
        (0, 1, 0)
    """
    return 1 if len(shape) == 2 else 0


def per_channel(features: Features) -> Float[Tensor, "M C"]:
    """Return every position of every sample as a row, channels as columns."""
    return features.movedim(1 + channel_axis(tuple(features.shape[1:])), -1).flatten(0, -2)


@dataclass(frozen=True)
class Standard:
    """What makes features comparable for an attacker: per channel, over the training people.

    Attributes:
        offset: ``[C]`` subtracted before storage; 0 for most channels.
        mean: ``[C]`` of the stored values.
        std: ``[C]`` of the stored values; 1 where a channel is constant.
    """

    offset: Float[Tensor, " C"]
    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]

    def broadcast(self, values: Float[Tensor, " C"], shape: tuple[int, ...]) -> Tensor:
        """Return per-channel values shaped to meet one sample."""
        return values.reshape(-1, *[1] * (len(shape) - 1)) if channel_axis(shape) == 0 else values


class ChannelStatistics:
    """Running mean and spread per channel, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def update(self, features: Features) -> None:
        """Count a batch in."""
        rows = per_channel(features).double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def mean_and_std(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Return both, in float32."""
        mean = torch.as_tensor(self.total / self.count)
        variance = (torch.as_tensor(self.squares) / self.count - mean.square()).clamp_min(0)
        return mean.float(), variance.sqrt().float()

    def standard(self, offset: Float[Tensor, " C"]) -> Standard:
        """Return the standard of features stored with this offset."""
        mean, std = self.mean_and_std()
        return Standard(offset, mean, torch.where(std > 1e-12, std, 1.0))


def storage_offset(features: Features) -> Float[Tensor, " C"]:
    """Return the channels' means where these are large beside the spread, 0 elsewhere (exact zeros stay exact)."""
    statistics = ChannelStatistics()
    statistics.update(features)
    mean, std = statistics.mean_and_std()
    return torch.where(mean.abs() > 4 * std, mean, 0.0)


@dataclass(frozen=True)
class StoredFeatures:
    """Features of the people of one split, on disk.

    Attributes:
        stored: ``[n, *D]`` float32, or bf16 bits; usually a memory map.
        standard: Offset, mean and spread per channel.
    """

    stored: FeatureBits | FeatureArray
    standard: Standard

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's features."""
        return tuple(self.stored.shape[1:])

    def read(self, rows: Int[np.ndarray, " B"] | slice) -> Features:
        """Return rows as the model computed them, in float32."""
        return self._values(rows) + self.standard.broadcast(self.standard.offset, self.shape)

    def standardised(self, rows: Int[np.ndarray, " B"] | slice) -> Features:
        """Return rows with mean 0 and spread 1 per channel, in float32."""
        mean = self.standard.broadcast(self.standard.mean, self.shape)
        std = self.standard.broadcast(self.standard.std, self.shape)
        return (self._values(rows) - mean) / std

    @property
    def rounded(self) -> bool:
        """Whether the values were rounded to bf16."""
        return bool(self.stored.dtype == np.int16)

    def _values(self, rows: Int[np.ndarray, " B"] | slice) -> Features:
        """Return stored rows in float32, without the offset."""
        found = self.stored[rows]
        # A slice of a read-only memory map is no copy yet; a gather is.
        values = torch.from_numpy(np.array(found) if isinstance(rows, slice) else np.asarray(found))
        return values.view(torch.bfloat16).float() if self.rounded else values.float()

    @cached_property
    def rotations(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Means ``[F]`` and principal axes ``[F, K]`` of pooled features that attackers left here, by the people."""
        return {}

    @cached_property
    def pooled(self) -> Float[Tensor, "n F"]:
        """Summaries of each person's standardised features, as exact as these; computed once for all attackers."""
        chunks = (slice(start, start + CHUNK) for start in range(0, len(self), CHUNK))
        kind = torch.bfloat16 if self.rounded else torch.float32
        return torch.cat([summarise(self.standardised(rows)).to(kind) for rows in chunks])


def summarise(features: Features) -> Float[Tensor, "B F"]:
    """Return what pooling keeps of features: vectors pass as they are.

    Maps: mean, spread and maximum of each channel, and means over a grid of 4×4 cells (2×2 from 512 channels on).
    Tokens: mean, spread and maximum of each channel, and the first token.

    Example:
        >>> summarise(torch.zeros(2, 16, 8, 8)).shape, summarise(torch.zeros(2, 17, 32)).shape
        (torch.Size([2, 304]), torch.Size([2, 128]))
    """
    if features.ndim == 2:
        return features
    maps = features.ndim == 4
    flat = features.flatten(2) if maps else features.transpose(1, 2)
    parts = [flat.mean(2), flat.std(2, correction=0), flat.amax(2)]
    if maps:
        side = 4 if features.shape[1] < 512 else 2
        cells = (min(side, features.shape[2]), min(side, features.shape[3]))
        parts.append(F.adaptive_avg_pool2d(features, cells).flatten(1))
    else:
        parts.append(features[:, 0])
    return torch.cat(parts, 1)


def stored_from_arrays(features: Mapping[str, FeatureArray], exact: bool = False) -> dict[str, StoredFeatures]:
    """Keep plain arrays as an extraction would; the first split standardises all (embeddings made elsewhere, tests).

    Args:
        features: Per split.
        exact: Keep float32, without rounding.

    Example:
        >>> stored = stored_from_arrays({"train": np.array([[1.0], [3.0]], np.float32)})
        >>> stored["train"].standardised(slice(0, 2)).flatten().tolist()
        [-1.0, 1.0]
    """
    first = next(iter(features.values()))
    offset = storage_offset(torch.from_numpy(np.asarray(first, np.float32)))
    kept: dict[str, FeatureBits | FeatureArray] = {}
    for split, values in features.items():
        tensor = torch.from_numpy(np.asarray(values, np.float32))
        kept[split] = encode(tensor, offset, exact)
    statistics = ChannelStatistics()
    unscaled = StoredFeatures(next(iter(kept.values())), Standard(offset, offset, torch.ones_like(offset)))
    for start in range(0, len(first), CHUNK):
        statistics.update(unscaled._values(slice(start, start + CHUNK)))
    standard = statistics.standard(offset)
    return {split: StoredFeatures(values, standard) for split, values in kept.items()}


def _less(features: Features, offset: Float[Tensor, " C"]) -> Features:
    """Return features less their offset, in float32."""
    shape = tuple(features.shape[1:])
    return features.float() - (offset.reshape(-1, *[1] * (len(shape) - 1)) if channel_axis(shape) == 0 else offset)


def encode(features: Features, offset: Float[Tensor, " C"], exact: bool = False) -> FeatureBits | FeatureArray:
    """Return features less their offset: float32 where they are to be exact, else bf16 bits."""
    if exact:
        return _less(features, offset).cpu().numpy()
    return _less(features, offset).bfloat16().contiguous().view(torch.int16).cpu().numpy()


def decode(bits: FeatureBits | FeatureArray) -> Features:
    """Return stored values as float32."""
    if bits.dtype == np.float32:
        return torch.from_numpy(np.array(bits))
    return torch.from_numpy(np.array(bits)).view(torch.bfloat16).float()
