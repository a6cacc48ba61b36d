"""Executors on one GPU, checked: streams and graphs against `local`, in float32 with deterministic kernels.

python benchmarks/gpu_check.py OUT.json     exit code 1: streams give other weights than `local`, graphs fail or
                                            differ by more than rounding

Drawn faces, a narrow ResNet-18 with the detachment's auxiliary network; weights are compared after one epoch.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it

import torch
from torch import Tensor

from efface.config import EngineConfig, MethodConfig
from efface.data.toyfaces import load_toyfaces
from efface.errors import EffaceError
from efface.experiments.environment import describe
from efface.methods import unlearn
from efface.models import build

CLOSE = 0.05
"""Largest distance of the weights that rounding may make, as a share of the way that training moved them."""


def train(device: str, epochs: int = 1, **engine: Any) -> dict[str, Tensor]:
    """Return the weights after one epoch, or before it, on the CPU."""
    torch.manual_seed(0)
    data = load_toyfaces(n=800, size=32, seed=0, attributes=("glasses",))
    model = build("resnet18", 2, 32, width=16)
    method = MethodConfig(heads=("pooled", "conv", "ridge"), head_width=16, decoder_width=16)
    config = EngineConfig(epochs=1, batch_size=32, precision="32-true", device=device, threads=1, **engine)
    if epochs:
        unlearn(model, data, ["layer1", "layer2"], method=method, engine=config, progress=False)
    return {name: value.cpu().clone() for name, value in model.state_dict().items()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest absolute difference of a weight."""
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean distance of all weights."""
    parts = [(one[name].double() - other[name].double()).square().sum() for name in one]
    return float(torch.stack(parts).sum().sqrt())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    local = train(device)
    result = {
        "about": "largest absolute difference of a weight after one epoch of 17 steps, three blocks, float32, seed 0",
        "local, again": difference(local, train(device)),
        "local_parallel": difference(local, train(device, schedule="local_parallel")),
    }
    if device == "cuda":
        # Rates are float32 on the device, where the host has float64: equal up to rounding.
        try:
            moved = distance(local, train(device, epochs=0))
            graphs = train(device, schedule="local_parallel", graphs=True)
            result["graphs, share of the way"] = distance(local, graphs) / moved
        except EffaceError as error:
            result["graphs, share of the way"] = f"failed: {error}"
    result |= describe(0)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    share = result.get("graphs, share of the way", 0.0)
    replayed = isinstance(share, float) and share <= CLOSE  # not so where it is no number
    return int(result["local_parallel"] > result["local, again"] or not replayed)


if __name__ == "__main__":
    raise SystemExit(main())
