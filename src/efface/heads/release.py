"""Layers at the cut that stay in the model: what they share.

Such a layer reads the features and returns others of the same shape; from then on these are released. It is an
ordinary module with ordinary tensors. What it was made from travels in its state as one of them, ``spec``: a model can
be rebuilt from the state alone, and loading runs no code from the file.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from efface.errors import CheckpointError
from efface.shapes import Progress


class Release(nn.Module):
    """A layer at the cut. Subclasses take keyword arguments that JSON can hold, and pass them here.

    Args:
        **made_from: The arguments of the subclass's constructor.
    """

    kind: ClassVar[str]

    def __init__(self, **made_from: Any):
        super().__init__()
        self.register_buffer("spec", pack({"kind": self.kind, **made_from}))

    def advance(self, progress: Progress) -> None:
        """Take note, before a training step, of the share of training that is done; most layers need not know."""


class CodedRelease(Release):
    """A layer whose output is a function of one integer per image, so that a certificate applies to it.

    Attributes:
        n_codes: M, the number of values that the integer can take.
    """

    n_codes: int

    def codes(self, features: Tensor) -> Tensor:
        """Return the codes ``[B]`` of features as they come in."""
        raise NotImplementedError

    def table(self) -> Tensor:
        """Return what is released for each code ``[M, *feature_shape]``."""
        raise NotImplementedError

    @torch.no_grad()
    def read(self, released: Tensor, chunk: int = 256) -> Tensor:
        """Return the codes ``[B]`` of released features: the nearest row of the table.

        Stored features may be rounded, and still give the code that made them.
        """
        rows = self.table().flatten(1).float()
        found = [
            torch.cdist(part.flatten(1).float(), rows, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
            for part in released.split(chunk)
        ]
        return torch.cat(found)


def pack(spec: dict[str, Any]) -> UInt8[Tensor, " n"]:
    """Return a description as a tensor of its JSON text.

    Example:
        >>> unpack(pack({"kind": "quantiser", "levels": [2, 3]}))
        {'kind': 'quantiser', 'levels': [2, 3]}
    """
    return torch.tensor(list(json.dumps(spec, sort_keys=True).encode()), dtype=torch.uint8)


def unpack(spec: Tensor) -> dict[str, Any]:
    """Read what ``pack`` wrote.

    Raises:
        CheckpointError: The tensor holds no description.
    """
    try:
        found = json.loads(bytes(spec.cpu().tolist()))
    except (ValueError, TypeError, OverflowError):
        found = None
    if not isinstance(found, dict) or "kind" not in found:
        raise CheckpointError("A layer at the cut has no readable description (`spec`) in this state: it is damaged.")
    return found


__all__ = ["CodedRelease", "Release", "pack", "unpack"]
