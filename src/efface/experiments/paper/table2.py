"""Table 2: latency per epoch, memory, efficacy and fidelity of end-to-end and of local training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from efface.engine.threads import cores_of_this_process
from efface.experiments.bench.accounting import tracked_peak
from efface.experiments.bench.machine import machine
from efface.experiments.bench.sampling import Variant, alternate, ratio
from efface.experiments.bench.workload import Load, noise, parts_of, rows_of, step_seconds
from efface.experiments.paper import measured
from efface.experiments.paper.cells import Workshop
from efface.experiments.paper.measured import Figures
from efface.experiments.paper.page import Page, printed
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import ATTRIBUTE, MODELS, NAMES, TABLE_2
from efface.experiments.paper.table1 import notes

DATASET = "cifar10"
SCHEDULES = {"raw": "end_to_end", "local": "local"}
HEAD = (
    "model", "schedule", "s per epoch, printed", "ours (lowest–highest)", "efficacy, printed",
    "ours: ResNet18 attacker", "ours: strongest attacker", "label floor", "fidelity, printed", "ours", "memory, "
    "printed", "ours, MiB",
    "less, printed", "ours", "speedup, printed", "ours (lowest–highest)",
)  # fmt: skip


def make(plan: Plan, shop: Workshop) -> Page:
    """Make the table."""
    rows: list[tuple[str, ...]] = []
    machines = []
    for model in MODELS:
        if model not in plan.scale.models:
            rows += [_row(model, name, None, None) for name in SCHEDULES]
            continue
        speed = measure(plan, shop, model)
        machines.append(speed["machine"])
        rows += [_row(model, name, speed["result"], _trained(plan, shop, model, name)) for name in SCHEDULES]
    lede = "End-to-end training of all losses (raw) against local training, on the same blocks with the same losses."
    return Page("table2", "Table 2: latency and memory", lede, HEAD, tuple(rows), notes(plan, *_notes(plan, machines)))


def measure(plan: Plan, shop: Workshop, model: str) -> dict[str, Any]:
    """Return the cell with a model's step times and memory: the kept one, or measure."""
    sizes, cores = plan.scale.speed, len(cores_of_this_process())
    load = Load(model=model, width=sizes["width"], batch=sizes["batch"], steps=sizes["steps"], skip=2, auxiliary="full")
    settings = {**load.settings(), **sizes, "threads": cores}
    mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    identity = f"speed-{model}-{mark}"
    if (kept := shop.kept(identity)) is not None:
        shop.tell(f"{identity}: kept")
        return kept
    shop.tell(f"{identity}: training steps, alternating")
    described = {**machine(), "command": shop.command}
    data = noise(rows_of(load), load.size)
    variants = [
        Variant(name, schedule, lambda schedule=schedule: step_seconds(load, data, schedule, cores))  # type: ignore[misc]
        for name, schedule in SCHEDULES.items()
    ]
    series = alternate(variants, sizes["rounds"])
    # The accounting follows modules with a gradient in every parameter, which the removal heads are not.
    small, plain = noise(load.batch, load.size), replace(load, auxiliary="head")
    memory = {name: tracked_peak(parts_of(plain, small), plain, schedule) for name, schedule in SCHEDULES.items()}
    result = {
        "steps_per_epoch": -(-sizes["images"] // load.batch),
        "step_s": {name: one.to_json() for name, one in series.items()},
        "speedup": ratio(series, "raw", "local"),
        "memory_mib": memory,
        "saving": 1 - memory["local"]["Total"] / memory["raw"]["Total"],
    }
    return shop.keep(identity, {"name": f"speed-{model}", "settings": settings, "machine": described, "result": result})


def _trained(plan: Plan, shop: Workshop, model: str, name: str) -> list[Figures]:
    """Return the figures of the trainings under a schedule; the local ones are table 1's."""
    task, attribute = plan.tasks[DATASET], ATTRIBUTE[DATASET]
    more = [f"engine.schedule={SCHEDULES[name]}"] if name == "raw" else []
    cells = [plan.unlearning(task, [attribute], model, seed, more=more) for seed in plan.seeds]
    return [measured.after(shop.run(cell), task.columns[attribute]) for cell in cells]


def _row(model: str, name: str, speed: dict[str, Any] | None, figures: list[Figures] | None) -> tuple[str, ...]:
    row, place, local = TABLE_2[model], list(SCHEDULES).index(name), name == "local"
    one = row.local if local else row.raw
    trained = (
        [measured.of(figures, key) for key in ("protocol", "strongest", "floor", "fidelity")] if figures else ["–"] * 4
    )
    latency, memory, saving, speedup = _measured(speed, name) if speed else ("–",) * 4
    return (
        NAMES[model], f"{name} ({SCHEDULES[name]})", printed(row.latency[place], 3), latency, printed(one.efficacy),
        trained[0], trained[1], trained[2], printed(one.fidelity), trained[3], printed(row.memory[place], 2), memory,
        f"{row.saving:.1%}" if local else "–", saving if local else "–",
        f"{row.speedup:.3f}×" if local else "–", speedup if local else "–",
    )  # fmt: skip


def _measured(speed: dict[str, Any], name: str) -> tuple[str, str, str, str]:
    steps, times, faster = speed["steps_per_epoch"], speed["step_s"][name], speed["speedup"]
    epoch = [steps * times[key] for key in ("median", "low", "high")]
    return (
        f"{epoch[0]:.1f} ({epoch[1]:.1f}–{epoch[2]:.1f})",
        f"{speed['memory_mib'][name]['Total']:.1f}",
        f"{speed['saving']:.1%}",
        f"{faster['median']:.3f}× ({faster['low']:.2f}–{faster['high']:.2f})",
    )


def _notes(plan: Plan, machines: list[dict[str, Any]]) -> list[str]:
    sizes = plan.scale.speed
    said = [
        f"Latency: the median of {sizes['rounds']} alternating rounds of {sizes['steps']} training steps on noise of "
        "CIFAR-10's "
        f"shape (batch {sizes['batch']}, {sizes['width']} base channels, the full auxiliary network), times the steps "
        f"of an epoch of {sizes['images']:,} images. Measured on the CPU whatever the machine has; the paper's on a "
        "GPU.",
        "Memory: the peak of a step, counted tensor by tensor (parameters, gradients, optimiser states, "
        "activations); the "
        "auxiliary network is a target head there, without decoder and removal heads.",
        "Local means one process that trains block after block; the parallel schedule is measured by `efface bench "
        "step`.",
    ]
    if machines:
        one = machines[0]
        busy = max(float(each["load_before"]) for each in machines)
        said.append(
            f"Machine: {one['hardware']['cpu']}, {one['cores_used']} cores; other work held up to {busy:.1f} cores "
            "before "
            "a measurement."
        )
    return said


__all__ = ["make", "measure"]
