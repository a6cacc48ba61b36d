"""Device, precision and processes: Lightning Fabric's, with defaults chosen for the machine at hand."""

from __future__ import annotations

import logging
import os
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from efface.config import EngineConfig

Module = TypeVar("Module", bound=nn.Module)


def has_fast_bfloat16() -> bool:
    """Return whether bfloat16 is computed by the hardware, not emulated."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def resolve_precision(precision: str) -> str:
    """Return Fabric's name of the precision: ``auto`` is bf16 where the hardware computes it, else float32."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if has_fast_bfloat16() else "32-true"


def make_fabric(config: EngineConfig) -> Fabric:
    """Return a launched Fabric; more than one process means data-parallel training."""
    # Fabric announces its precision at every start; environment and configuration say it once.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)) // config.devices or 1)
    fabric = Fabric(
        accelerator=config.device,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=resolve_precision(config.precision),  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def distribute(fabric: Fabric, module: Module) -> Module:
    """Wrap a module for data-parallel training.

    One process needs no wrapper: Fabric's casts every output to float32, which the next block casts back.
    """
    if fabric.world_size == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    return fabric.setup_module(module)  # type: ignore[return-value]
