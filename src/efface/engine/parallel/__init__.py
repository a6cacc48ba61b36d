"""Executors: who makes the steps of a schedule, where and when. All of them make the same steps (``schedules``).

| executor | where | when it is chosen |
|---|---|---|
| ``loop`` | this process | ``local``, ``end_to_end``, and whatever has one block |
| ``parallel.processes`` | a process per block, shared memory | ``local_parallel`` on the CPU |
| ``parallel.ranks`` | ``torch.distributed``, a rank per block | ``local_parallel`` under torchrun |
| ``parallel.streams`` | a CUDA stream per block, one or more GPUs | ``local_parallel`` on CUDA |
| ``parallel.graphs`` | the same on one GPU, as CUDA graphs | ``local_parallel`` with ``engine.graphs`` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from efface.config import EngineConfig
from efface.engine import loop
from efface.engine.devices import under_torchrun
from efface.engine.training import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def executor(config: EngineConfig, fabric: Fabric, blocks: int) -> Callable[[Training], None]:
    """Return who makes the steps of a training with so many blocks."""
    if config.graphs and config.schedule == "local_parallel":
        from efface.engine.parallel import graphs

        return graphs.run
    if config.schedule != "local_parallel" or blocks == 1:
        return loop.run
    if under_torchrun():
        from efface.engine.parallel import ranks

        return ranks.run
    if fabric.device.type == "cuda":
        from efface.engine.parallel import streams

        return streams.run
    from efface.engine.parallel import processes

    return processes.run


__all__ = ["executor"]
