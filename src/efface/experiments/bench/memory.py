"""``bench memory``: the peak of end-to-end and of alternating training, by tensor accounting and as resident set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from efface.experiments.bench.accounting import tracked_peak
from efface.experiments.bench.apart import apart
from efface.experiments.bench.workload import Load, network, noise, parts_of, rows_of, step_seconds
from efface.experiments.environment import peak_rss_mb
from efface.models.measure import activation_costs

MODELS = ("resnet18", "resnet34", "resnet50")
FEWEST = 40
"""Images, so that every class is among them."""
ABOUT = (
    "Peak of a training step: parameters, gradients, optimiser states and activations. `end to end` and `local` "
    "compute the same losses on the same blocks; `plain` is the network alone. Counted tensor by tensor under fake "
    "tensors (torch.distributed._tools.mem_tracker), float32, AdamW."
)


def bench_memory(
    load: Load, tell: Callable[[str], None], models: Sequence[str] = MODELS, blocks: int = 2, resident: bool = True
) -> dict[str, Any]:
    """Return the result of the benchmark, without the machine.

    Args:
        load: Batch and image size; model and cut are those of the table.
        tell: Hears of the progress.
        models: Networks.
        blocks: Most blocks that the best cut makes.
        resident: Measure the resident set of real training too.
    """
    rows, saving, three = [], {}, {}
    for model in models:
        one = load.of(model)
        best = _rows(one, best_cuts(one, blocks, tell), tell)
        rows += best
        saving[model] = max(row["saving"] for row in best if row["blocks"] == 2)
        if blocks > 2:
            three[model] = max(row["saving"] for row in best if row["blocks"] > 2)
    result: dict[str, Any] = {
        "bench": "memory",
        "about": ABOUT,
        "settings": {**load.settings(), "models": "+".join(models)},
        "rows": rows,
        "saving": saving,
        "notes": ["`saving` is of the best cut into two blocks, against end to end with the same losses."],
    }
    if blocks > 2:
        result["saving_more_blocks"] = three
    if resident:
        result["resident"] = resident_sets(load, tell)
        result["notes"].append(_resident_note(result["resident"]))
    return result


def best_cuts(load: Load, blocks: int, tell: Callable[[str], None]) -> list[tuple[str, ...]]:
    """Return the configured cut, and for each number of blocks those that keep least, counted over their neighbours."""
    tell(f"{load.model}: candidate layers")
    costs = activation_costs(network(load), torch.zeros(2, 3, load.size, load.size))
    names = [layer.name for layer in costs.layers]
    found = [load.at]
    for count in range(2, blocks + 1):
        at = costs.propose("memory", count).at
        found.append(at)
        if count == 2:
            place = names.index(at[0])
            found += [(name,) for name in names[max(0, place - 1) : place + 2]]
    return list(dict.fromkeys(found))


def _rows(load: Load, cuts: Sequence[tuple[str, ...]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    data, rows = noise(max(FEWEST, load.batch), load.size), []
    plain = tracked_peak(parts_of(load, data, blocks=False), load, "end_to_end")
    for at in cuts:
        tell(f"{load.model}, cut after {', '.join(at)}")
        one = replace(load, at=at)
        whole = tracked_peak(parts_of(one, data), one, "end_to_end")
        local = tracked_peak(parts_of(one, data), one, "local")
        rows.append(
            {
                "model": load.model,
                "cut after": ", ".join(at),
                "blocks": len(at) + 1,
                "plain, MiB": plain["Total"],
                "end to end, MiB": whole["Total"],
                "local, MiB": local["Total"],
                "activations end to end": whole["Activation"],
                "activations local": local["Activation"],
                "saving": 1 - local["Total"] / whole["Total"],
                "saving against plain": 1 - local["Total"] / plain["Total"],
            }
        )
    return rows


def resident_sets(load: Load, tell: Callable[[str], None]) -> dict[str, float]:
    """Return the largest resident set in MiB of a few real steps of each schedule, each in a process of its own."""
    found = {}
    for schedule in ("end_to_end", "local"):
        tell(f"Resident set: {schedule}")
        found[schedule] = apart(_train, load, schedule, torch.get_num_threads())
    found["saving"] = 1 - found["local"] / found["end_to_end"]
    return found


def _train(load: Load, schedule: str, threads: int) -> float:
    step_seconds(load, noise(rows_of(load), load.size), schedule, threads)
    return peak_rss_mb()


def _resident_note(found: dict[str, float]) -> str:
    return (
        f"Resident set of real steps ({', '.join(name for name in found if name != 'saving')}): "
        f"{found['end_to_end']:.0f} and {found['local']:.0f} MiB, libraries and data included: "
        f"{found['saving']:.1%} less."
    )
