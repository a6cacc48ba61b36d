"""Optimisers and the learning-rate schedule, a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from efface.config import EngineConfig


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Return the rate at a step: linear warm-up over a share of training, then half a cosine to 1 % of the peak.

    Example:
        >>> [round(learning_rate(s, 100, 1.0, 0.1), 3) for s in (0, 9, 55, 99)]
        [0.1, 1.0, 0.505, 0.01]
    """
    rising = max(1, round(steps * warmup)) if warmup else 0
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(modules: Iterable[nn.Module], config: EngineConfig, lr: float) -> Optimizer | None:
    """Return the optimiser of a block; norms and biases get no weight decay. None where nothing learns.

    The rate of each group is its ``lr`` times ``learning_rate``; the group keeps its peak as ``peak``.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not parameters:
        return None
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "peak": lr},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "peak": lr},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    return AdamW(groups, lr=lr, betas=(0.9, 0.99), fused=True)


def set_rate(optimizer: Optimizer, step: int, steps: int, warmup: float) -> None:
    """Write this step's learning rate into the optimiser; where it is a tensor, into the tensor."""
    for group in optimizer.param_groups:
        rate = learning_rate(step, steps, group["peak"], warmup)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def portable_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimiser's state as any executor writes and reads it: rates as numbers, wherever they are kept."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return state
