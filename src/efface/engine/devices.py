"""Device, precision and processes: Lightning Fabric's, with defaults chosen for the machine at hand."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch
from torch import nn

from efface.config import EngineConfig
from efface.engine.threads import choose_threads
from efface.errors import ConfigError, expected

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy


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


def device_for(config: EngineConfig) -> torch.device:
    """Return where ``engine.device`` computes: with ``auto``, on a GPU where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        return _fabric()(accelerator=config.device, devices=_own_device(config)).device
    except (RuntimeError, ValueError, ImportError) as error:
        raise _unusable(config, error) from None


def make_fabric(config: EngineConfig, blocks: int = 1) -> Fabric:
    """Return a launched Fabric for this process.

    Data-parallel training has several, each with all blocks: ``engine.devices``, or as many as torchrun started. With
    ``local_parallel`` each stands alone: what passes between blocks is no business of Fabric's.

    Args:
        config: Device, precision, threads.
        blocks: Number of blocks of the network.
    """
    # Fabric announces its precision at every start; environment and configuration say it once.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(choose_threads(config.threads, _processes_here(config, blocks)))
    try:
        fabric = _launched(config)
    except (RuntimeError, ValueError, ImportError) as error:
        raise _unusable(config, error) from None
    _check_graphs(config, fabric.device)
    return fabric


def _check_graphs(config: EngineConfig, device: torch.device) -> None:
    if config.graphs and config.schedule == "local_parallel" and (device.type != "cuda" or under_torchrun()):
        found = "torchrun" if under_torchrun() else f"the device `{device}`"
        hint = "The other executors of `engine.schedule=local_parallel` need no graphs."
        raise ConfigError(expected("engine.graphs", "false but on one CUDA GPU, in one process", found, hint))


def _unusable(config: EngineConfig, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0]
    return ConfigError(
        f"Cannot compute as `engine.device={config.device}`, `engine.devices={config.devices}`: {reason}"
    )


def _launched(config: EngineConfig) -> Fabric:
    common = {"accelerator": config.device, "precision": resolve_precision(config.precision)}
    if config.schedule == "local_parallel":
        fabric = _fabric()(devices=_own_device(config), **common)  # type: ignore[arg-type]
    elif under_torchrun():
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        machines = int(os.environ["WORLD_SIZE"]) // here
        fabric = _fabric()(devices=here, num_nodes=machines, strategy=_data_parallel(), **common)  # type: ignore[arg-type]
    elif config.devices > 1:
        fabric = _fabric()(devices=config.devices, strategy=_data_parallel(), **common)  # type: ignore[arg-type]
    else:
        fabric = _fabric()(devices=1, **common)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


def under_torchrun() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def data_shard(config: EngineConfig, fabric: Fabric, blocks: int) -> tuple[int, int]:
    """Return (number, count): which part of each batch is this process's."""
    if config.schedule != "local_parallel" or not under_torchrun():
        return fabric.global_rank, fabric.world_size
    replicas = int(os.environ["WORLD_SIZE"]) // blocks
    # A network of one block is trained by every rank alike, on whole batches.
    return (int(os.environ["RANK"]) % replicas, replicas) if blocks > 1 and replicas else (0, 1)


def writes_files(fabric: Fabric) -> bool:
    """Whether this process is the one that writes log and checkpoints."""
    return fabric.is_global_zero and os.environ.get("RANK", "0") == "0"


def distribute(fabric: Fabric, module: nn.Module) -> nn.Module:
    """Wrap a module for data-parallel training; gradients are averaged over the processes as backward goes.

    It is Fabric's strategy that wraps, not Fabric: Fabric's own wrapper casts every output to float32 and takes no
    frozen dataclass. One process needs no wrapper.
    """
    if fabric.world_size == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    return fabric.strategy.setup_module(module)


def _fabric() -> type[Fabric]:
    """Return Fabric. Its import takes as long as torch's: commands that compute nothing go without."""
    from lightning_fabric import Fabric

    if not torch.cuda.is_available():
        # Fabric makes torch look for a GPU by NVML, which every step of an optimiser does: 0.5 ms where there is none.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    return Fabric


def _data_parallel() -> DDPStrategy:
    from lightning_fabric.strategies import DDPStrategy

    # A head's projection learns nothing unless the training is contrastive.
    return DDPStrategy(find_unused_parameters=True)


def _processes_here(config: EngineConfig, blocks: int) -> int:
    """Processes that compute on this machine at the same time."""
    if under_torchrun():
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return blocks if config.schedule == "local_parallel" else config.devices


def _own_device(config: EngineConfig) -> int | list[int]:
    """The device of a process that torchrun started: its own GPU."""
    if config.device in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        return [int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()]
    return 1
