"""``bench step``: seconds of a training step: the plain loop, end to end, local, and pipelined over processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.engine.convolutions import small_maps_as_products
from efface.engine.devices import make_fabric
from efface.engine.schedules import block_step
from efface.engine.shortcuts import shortcuts_first
from efface.engine.stages import Stage
from efface.engine.threads import cores_of_this_process
from efface.experiments.bench.machine import matmul_rate
from efface.experiments.bench.plain import plain_seconds
from efface.experiments.bench.sampling import Series, Variant, alternate, ratio
from efface.experiments.bench.workload import Load, network, noise, parts_of, rows_of, step_seconds
from efface.models.cost import counting

ABOUT = (
    "Seconds of one training step, from step to step, data included. All variants of one round follow each other; "
    "those with an auxiliary network compute the same losses."
)
RATIOS = {
    "tuned_vs_plain": ("plain", "tuned"),
    "pipelined_vs_one_thread": ("one_thread", "pipelined"),
    "pipelined_vs_two_threads": ("all_threads", "pipelined"),
    "local_vs_end_to_end": ("all_threads", "local"),
    "pipelined_vs_two_threads_core_held": ("all_threads_core_held", "pipelined_core_held"),
}
"""How many times as fast the second is as the first."""


@dataclass(frozen=True)
class _Bench:
    load: Load
    data: AttributeDataset
    cores: int

    def engine(self, schedule: str, threads: int, blocks: bool = True) -> Callable[[], float]:
        return lambda: step_seconds(self.load, self.data, schedule, threads, blocks)

    def variants(self) -> list[Variant]:
        count = len(self.load.at) + 1
        all_cores = f"{self.cores} thread(s)"
        return [
            Variant(
                "plain",
                f"PyTorch loop: float32, DataLoader with {self.cores} workers, Pillow augmentation, {all_cores}; no "
                "auxiliary network; in a process of its own, with the allocator as it comes",
                lambda: plain_seconds(self.load, self.cores),
            ),
            Variant("tuned", f"engine, end to end, {all_cores}; no auxiliary network",
                    self.engine("end_to_end", self.cores, blocks=False)),
            Variant("one_thread", "engine, end to end, 1 thread", self.engine("end_to_end", 1)),
            Variant("all_threads", f"engine, end to end, {all_cores}", self.engine("end_to_end", self.cores)),
            Variant("local", f"engine, local, {all_cores}", self.engine("local", self.cores)),
            Variant("pipelined", f"engine, local_parallel: {count} processes of 1 thread",
                    self.engine("local_parallel", 1)),
        ]  # fmt: skip

    def beside_a_busy_core(self) -> list[Variant]:
        return [
            Variant("all_threads_core_held", f"end to end, {self.cores} thread(s), while another process holds a core",
                    beside_a_busy_process(self.engine("end_to_end", self.cores))),
            Variant("pipelined_core_held", "local_parallel, while another process holds a core",
                    beside_a_busy_process(self.engine("local_parallel", 1))),
        ]  # fmt: skip


def bench_step(load: Load, rounds: int, tell: Callable[[str], None], hold: bool = True) -> dict[str, Any]:
    """Return the result of the benchmark, without the machine.

    Args:
        load: What is trained; the first steps of every sample warm up.
        rounds: Samples of each variant; where a core is held, half as many.
        tell: Hears of the progress.
        hold: Measure with a core held by another process, too.
    """
    cores = len(cores_of_this_process())
    bench = _Bench(load, noise(rows_of(load), load.size), cores)
    series = alternate(bench.variants(), rounds, tell, warm_up=False)
    if hold:
        series |= alternate(bench.beside_a_busy_core(), max(1, rounds // 2), tell, warm_up=False)
    tell("Blocks one by one, and the peak of a matrix product")
    blocks, reached = block_seconds(load, bench.data), peak(load, series, cores)
    bound = series["one_thread"].median / max(blocks)
    found = {name: ratio(series, *pair) for name, pair in RATIOS.items() if set(pair) <= series.keys()}
    return {
        "bench": "step",
        "about": ABOUT,
        "unit": "ms",
        "scale": 1000.0,
        "settings": {**load.settings(), "rounds": rounds},
        "variants": {name: one.to_json() for name, one in series.items()},
        "ratios": {name: value["median"] for name, value in found.items()},
        "ratio_spread": found,
        "blocks": blocks,
        "bound": {"pipelined_vs_one_thread": bound},
        "peak": reached,
        "notes": _notes(blocks, bound, reached, cores),
    }


def block_seconds(load: Load, data: AttributeDataset) -> list[float]:
    """Return the seconds of each block's step on one thread, its auxiliary network included."""
    config = EngineConfig.model_validate(
        {"threads": 1, "precision": load.precision, "device": "cpu", "batch_size": load.batch}
    )
    fabric = make_fabric(config)
    stages = [Stage(part, fabric, config) for part in parts_of(load, data)]
    for stage in stages:
        stage.train()
        for module in stage.modules:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    times: list[list[float]] = [[] for _ in stages]
    modules = [module for stage in stages for module in stage.modules]
    with small_maps_as_products(*modules), shortcuts_first(*modules):
        for number, batch in enumerate(Batches(data, "train", load.batch).epoch(0)):
            signal = batch.images
            for index, stage in enumerate(stages):
                stage.begin_step(number, load.steps + load.skip, load.steps + load.skip)
                begun = time.perf_counter()
                _, signal = block_step(fabric, stage, index, signal, batch, 0.5)
                times[index].append(time.perf_counter() - begun)
    return [median(values[min(load.skip, len(values) - 1) :]) for values in times]


def peak(load: Load, series: dict[str, Series], cores: int) -> dict[str, float]:
    """Return what share of a matrix product's rate the tuned step reaches."""
    model, images = network(load), torch.zeros(2, 3, load.size, load.size)
    with counting() as counter:
        model(images).sum().backward()
    operations = counter.get_total_flops() / len(images) * load.batch
    rate = max(matmul_rate(cores, 16 * load.batch) for _ in range(5))
    reached = operations / series["tuned"].median
    size = 16.0 * load.batch
    return {"matmul_size": size, "matmul_gflops": rate / 1e9, "step_gflops": reached / 1e9, "share": reached / rate}


def beside_a_busy_process(measure: Callable[[], float]) -> Callable[[], float]:
    """Return the same measurement, with a process beside it that holds a core."""

    def measured() -> float:
        with busy_process():
            return measure()

    return measured


@contextmanager
def busy_process() -> Iterator[None]:
    """Let another process hold a core."""
    process = get_context("fork").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = os.getppid()
    while os.getppid() == parent:
        sum(range(10_000))


def _notes(blocks: list[float], bound: float, reached: dict[str, float], cores: int) -> list[str]:
    """Return what a reader needs to judge the ratios."""
    each = ", ".join(f"{1000 * seconds:.1f}" for seconds in blocks)
    return [
        f"The blocks take {each} ms one by one on 1 thread; a pipeline is as fast as its slowest: {bound:.2f}× "
        "`one_thread`, and more where a block on a core of its own finds more in its caches.",
        f"`all_threads` stands for two threads on a machine of two cores; here it has {cores}.",
        f"`tuned` reaches {reached['share']:.0%} of the rate of a matrix product of {reached['matmul_size']:.0f} rows.",
    ]
