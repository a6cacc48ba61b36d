"""local_parallel under torchrun, checked: a rank per block, or replicas of each, against `local` in one process.

torchrun --nproc-per-node 2 benchmarks/torchrun_check.py             # 2 blocks, equal to the bit
torchrun --nproc-per-node 4 benchmarks/torchrun_check.py --blocks 4  # 4 blocks, equal to the bit
torchrun --nproc-per-node 4 benchmarks/torchrun_check.py             # 2 blocks of 2 replicas each, equal on all ranks
... --out benchmarks/results/torchrun/NAME.json                      # writes what was found

Drawn faces, a narrow ResNet-18, float32. The same lines train a real model: `efface.unlearn` needs no other call.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from efface.config import EngineConfig, MethodConfig
from efface.data.toyfaces import load_toyfaces
from efface.experiments.environment import describe
from efface.methods import unlearn
from efface.models import build

CUTS = {2: ["layer2"], 3: ["layer1", "layer2"], 4: ["layer1", "layer2", "layer3"]}


def train(schedule: str, blocks: int) -> dict[str, torch.Tensor]:
    """Return the weights after one epoch."""
    torch.manual_seed(0)
    data = load_toyfaces(n=400, size=32, seed=0, attributes=("glasses",))
    model = build("resnet18", 2, 32, width=8)
    method = MethodConfig(heads=("pooled",), head_width=8, decoder_width=8)
    engine = EngineConfig(schedule=schedule, epochs=1, batch_size=16, precision="32-true", threads=1, device="cpu")  # type: ignore[arg-type]
    unlearn(model, data, CUTS[blocks], method=method, engine=engine, progress=False)
    return {name: value.clone() for name, value in model.state_dict().items()}


def alone(blocks: int) -> dict[str, torch.Tensor]:
    """Return the weights of `local` in this process, as if torchrun had not started it."""
    hidden = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
    try:
        return train("local", blocks)
    finally:
        os.environ |= hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, choices=sorted(CUTS), default=2)
    parser.add_argument("--out", type=Path, help="JSON file for what was found")
    asked = parser.parse_args()
    blocks = asked.blocks
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    mine = train("local_parallel", blocks)
    gathered: list[dict[str, torch.Tensor]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(gathered, mine)
    same = all(torch.equal(weights[name], mine[name]) for weights in gathered for name in mine)
    if rank == 0:
        print(f"{world} ranks, {blocks} blocks, {world // blocks} replica(s): ", end="")
        print("all ranks have the same weights" if same else "THE RANKS DIFFER")
        found = {
            "ranks": world,
            "blocks": blocks,
            "replicas": world // blocks,
            "ranks_equal": same,
            "equals_local": None,
        }
        if world == blocks:
            wanted = alone(blocks)
            found["equals_local"] = all(torch.equal(wanted[name], mine[name]) for name in mine)
            same &= bool(found["equals_local"])
            print("equal to `local` to the bit" if same else "NOT EQUAL to `local`")
        if asked.out is not None:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            asked.out.write_text(json.dumps(found | describe(0), indent=1) + "\n")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
