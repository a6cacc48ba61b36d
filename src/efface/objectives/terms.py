"""What an objective returns: the loss of a block and the figures worth logging."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from efface.shapes import Scalar


@dataclass(frozen=True)
class Terms:
    """A loss with its parts.

    Attributes:
        total: What is minimised, in nats per image.
        metrics: Detached figures for the log, by name; each name carries its unit.
    """

    total: Scalar
    metrics: dict[str, Tensor] = field(default_factory=dict)
