"""What a benchmark was made on, and what it can do: hardware, versions, threads, and the rate of a matrix product."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from efface.engine.devices import has_fast_bfloat16
from efface.engine.threads import cores_of_this_process, load_of_others
from efface.experiments.environment import describe


def machine() -> dict[str, Any]:
    """Return hardware, versions, threads, allocator settings and the load before the benchmark begins."""
    found = describe(seed=0)
    found.pop("seed")
    names = [name for name in os.environ if name.startswith(("OMP_", "MALLOC_", "LD_PRELOAD"))]
    return {
        **found,
        "cores_used": len(cores_of_this_process()),
        "bfloat16": has_fast_bfloat16(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "environment": {name: os.environ[name] for name in sorted(names)},
        "load_before": round(load_of_others(1.0), 2),
    }


def matmul_rate(threads: int, size: int = 2048, repeats: int = 4) -> float:
    """Return the operations per second of a square matrix product in the precision that training uses."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if has_fast_bfloat16() else torch.float32
    left, right = (torch.randn(size, size, dtype=dtype) for _ in range(2))
    begun = time.perf_counter()
    for _ in range(repeats):
        left @ right
    return 2 * size**3 * repeats / (time.perf_counter() - begun)
