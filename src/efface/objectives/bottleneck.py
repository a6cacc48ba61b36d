"""The loss of a task-only bottleneck: cross-entropy of its own guess."""

from __future__ import annotations

from torch import nn

from efface.data.batches import Batch
from efface.heads.quantiser import TaskBottleneck
from efface.information import bits, cross_entropy_rate
from efface.objectives.terms import Terms
from efface.shapes import Features, Progress


class BottleneckObjective(nn.Module):
    """Cross-entropy of the bottleneck's guess of the target, read in the same step in which it ran.

    Args:
        bottleneck: The layer; not a submodule, since the block trains it.
    """

    def __init__(self, bottleneck: TaskBottleneck):
        super().__init__()
        self._bottleneck = (bottleneck,)

    def forward(self, features: Features, batch: Batch, progress: Progress) -> Terms:
        """Return the loss; the released features carry no gradient."""
        del progress
        logits = self._bottleneck[0].latest
        if logits is None:  # not in training: the costs are counted in evaluation mode
            return Terms(features.sum() * 0)
        loss = cross_entropy_rate(logits, batch.target)
        return Terms(loss, {"loss/bottleneck": loss.detach(), "target_loss_bits": bits(loss.detach())})


__all__ = ["BottleneckObjective"]
