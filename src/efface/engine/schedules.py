"""Schedules: who steps when, and where the gradient stops. Every backward and every detach of the engine is here.

- ``local``: each block learns from its own loss, its graph is freed before the next block starts (section 3.3).
  ``local_parallel`` makes the same steps, ``block_step``, in other places at other times: see ``engine/parallel``.
- ``end_to_end``: one backward through all blocks on the sum of their losses (the paper's "raw").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from efface.data.batches import Batch
from efface.engine.stages import Stage
from efface.objectives import Terms
from efface.shapes import Features, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Metrics = dict[str, Tensor]
Step = Callable[["Fabric", Sequence[Stage], Batch, float], Metrics]


def _update(fabric: Fabric, optimizer: Optimizer, loss: Tensor, clip: float | None) -> Tensor:
    """Backward and step; return the gradient's norm (or the loss), so that the loop can see what is not finite."""
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    return _apply(optimizer, clip, loss)


def _apply(optimizer: Optimizer, clip: float | None, loss: Tensor) -> Tensor:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = clip_grad_norm_(parameters, clip) if clip else loss.detach()
    optimizer.step()
    # Freed now, gradients don't stand beside the next block's activations.
    optimizer.zero_grad(set_to_none=True)
    return norm


def _train_adversary(fabric: Fabric, stage: Stage, features: Features, batch: Batch) -> Metrics:
    """Let the adversary learn on detached features, ``inner_steps`` times."""
    metrics: Metrics = {}
    if stage.adversary is None or stage.adversary_optimizer is None:
        return metrics
    still = features.detach()
    for _ in range(stage.part.inner_steps):
        with fabric.autocast():
            terms: Terms = stage.adversary(still, batch)
        _update(fabric, stage.adversary_optimizer, terms.total, None)
        metrics = {**terms.metrics, "loss/adversary": terms.total.detach()}
    return metrics


def block_step(
    fabric: Fabric, stage: Stage, index: int, signal: Tensor, batch: Batch, progress: Progress
) -> tuple[Metrics, Tensor]:
    """Update one block from its own loss: the one local step of every executor.

    Args:
        fabric: Device and precision.
        stage: The block.
        index: Its number, for the names of figures.
        signal: What the block before it made of the batch; the images for the first.
        batch: Images and labels.
        progress: Share of the training, 0 to 1.

    Returns:
        Figures, and the features for the next block, detached. The block's graph is freed with this call.
    """
    stage.settle()
    stage.advance(progress)
    with fabric.autocast():
        features = stage.block(signal)
    metrics = _train_adversary(fabric, stage, features, batch)
    with fabric.autocast():
        terms: Terms = stage.objective(features, batch, progress)
    metrics |= terms.metrics
    if stage.optimizer is not None and terms.total.requires_grad:
        metrics[f"norm/{index}"] = _update(fabric, stage.optimizer, terms.total, stage.config.grad_clip)
    return metrics, features.detach()


def local_step(fabric: Fabric, stages: Sequence[Stage], batch: Batch, progress: Progress) -> Metrics:
    """Update the blocks one after the other, no gradient crossing a boundary."""
    metrics: Metrics = {}
    signal: Tensor = batch.images
    for index, stage in enumerate(stages):
        found, signal = block_step(fabric, stage, index, signal, batch, progress)
        metrics |= found
    return metrics


def end_to_end_step(fabric: Fabric, stages: Sequence[Stage], batch: Batch, progress: Progress) -> Metrics:
    """Update all blocks from the sum of their losses, the gradient passing through every boundary."""
    metrics: Metrics = {}
    signal: Tensor = batch.images
    total = torch.zeros((), device=signal.device)
    for stage in stages:
        stage.settle()
        stage.advance(progress)
        with fabric.autocast():
            signal = stage.block(signal)
        metrics |= _train_adversary(fabric, stage, signal, batch)
        with fabric.autocast():
            terms: Terms = stage.objective(signal, batch, progress)
        metrics |= terms.metrics
        total = total + terms.total
    optimizers = [(stage.optimizer, stage.config.grad_clip) for stage in stages if stage.optimizer is not None]
    for optimizer, _ in optimizers:
        optimizer.zero_grad(set_to_none=True)
    fabric.backward(total)
    for index, (optimizer, clip) in enumerate(optimizers):
        metrics[f"norm/{index}"] = _apply(optimizer, clip, total)
    return metrics


SCHEDULES: dict[str, Step] = {"local": local_step, "local_parallel": local_step, "end_to_end": end_to_end_step}
