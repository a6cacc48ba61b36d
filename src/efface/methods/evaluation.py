"""Figures of the validation split during training: fidelity, and what the removal heads still find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from efface.data.batches import Batch, Batches
from efface.data.dataset import AttributeDataset
from efface.shapes import Features, Labels

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@runtime_checkable
class Guessing(Protocol):
    """Whoever guesses attributes from features: removal heads, or an objective that has some."""

    @property
    def names(self) -> Sequence[str]:
        """The attributes."""

    def guesses(self, features: Features, batch: Batch) -> Iterator[tuple[str, int, Labels]]:
        """Yield (attribute, number of the head, its guesses)."""

    def eval(self) -> nn.Module:
        """Switch to evaluation mode."""


def fidelity_of(
    model: nn.Module, data: AttributeDataset, batch_size: int = 256
) -> Callable[[Fabric], Mapping[str, float]]:
    """Return a function that measures top-1 accuracy of the target on validation (a fraction)."""

    @torch.inference_mode()
    def evaluate(fabric: Fabric) -> Mapping[str, float]:
        model.eval()
        right = total = 0
        batches = Batches(data, "validation", batch_size, fabric.device, augment=None)
        for batch in batches.sequential():
            with fabric.autocast():
                logits = model(batch.images)
            right += int((logits.argmax(1) == batch.target).sum())
            total += len(batch.target)
        return {"fidelity": right / total}

    return evaluate


def detachment_figures(
    blocks: Sequence[nn.Module], removal: Guessing, data: AttributeDataset, batch_size: int = 256
) -> Callable[[Fabric], Mapping[str, float]]:
    """Return a function that measures fidelity and each removal head's accuracy on validation (fractions)."""

    @torch.inference_mode()
    def evaluate(fabric: Fabric) -> Mapping[str, float]:
        for block in blocks:
            block.eval()
        removal.eval()
        right: dict[str, float] = {}
        total: dict[str, int] = {}

        def count(name: str, hits: torch.Tensor, known: torch.Tensor) -> None:
            right[name] = right.get(name, 0) + int((hits & known).sum())
            total[name] = total.get(name, 0) + int(known.sum())

        batches = Batches(data, "validation", batch_size, fabric.device, augment=None)
        for batch in batches.sequential():
            with fabric.autocast():
                features = blocks[0](batch.images)
                logits = features
                for block in blocks[1:]:
                    logits = block(logits)
                for name, head, guess in removal.guesses(features, batch):
                    labels = batch.attributes[name]
                    count(f"removal_accuracy/{name}/{head}", guess == labels, labels >= 0)
            count("fidelity", logits.argmax(1) == batch.target, batch.target >= 0)
        figures = {name: right[name] / max(1, total[name]) for name in right}
        for name in removal.names:
            found = [figures.pop(key) for key in list(figures) if key.startswith(f"removal_accuracy/{name}/")]
            if found:  # a head that is solved makes no guesses
                figures[f"removal_accuracy/{name}"] = max(found)
        return figures

    return evaluate
