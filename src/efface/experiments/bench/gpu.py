"""``bench gpu``: seconds of an epoch on one GPU, by network, batch size and schedule; without one, on the CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, product
from typing import Any

import torch

from efface.config import EngineConfig
from efface.data.batches import Batch, Batches
from efface.data.dataset import AttributeDataset
from efface.engine.devices import make_fabric
from efface.engine.parallel.graphs import Pipeline
from efface.engine.parallel.streams import Lane, streamed_step
from efface.engine.schedules import SCHEDULES
from efface.engine.stages import Stage
from efface.engine.threads import cores_of_this_process, most_threads
from efface.experiments.bench.plain import plain_seconds
from efface.experiments.bench.sampling import Series, Variant, watched
from efface.experiments.bench.workload import Load, noise, parts_of

EPOCH = 50_000
"""Images of the epoch whose seconds are told."""
ABOUT = (
    "Seconds of an epoch of 50,000 images, from steps that are timed together between two waits for the device, "
    "variants by turns, reading and augmentation included. `plain` and `tuned` train the network alone; the others "
    "train the auxiliary networks too."
)
VARIANTS = {
    "plain": "PyTorch loop: float32, DataLoader, Pillow augmentation, the loss read every step; no auxiliary network",
    "tuned": "engine, end to end; no auxiliary network",
    "end_to_end": "engine, end to end, with the auxiliary network's loss",
    "local": "engine, local",
    "streams": "engine, local_parallel: a stream per block",
    "graphs": "the streams' work as CUDA graphs (`engine.graphs`)",
    "compiled": "engine, local, the blocks made by torch.compile: not offered by the engine",
    "local_full": "engine, local, with decoder, target head and removal heads",
}
SLOW = ("plain", "compiled")
"""Variants that are measured last, at one batch size."""
PLAIN_BATCH = 128
"""The one batch size at which the plain loop is measured, as in the paper."""
PROGRESS = 0.5
"""Share of the training at which all steps are made."""
STEPS = 1_000_000
"""Of the training that all steps are taken from the beginning of."""


@dataclass
class GpuBench:
    """All measurements of a run.

    Attributes:
        load: Steps and image size; model and batch are those of the rows.
        data: Images for an epoch.
        minutes: Time after which nothing new is begun.
        tell: Hears of the progress.
    """

    load: Load
    data: AttributeDataset
    minutes: float
    tell: Callable[[str], None]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def measure(self, model: str, batch: int, rounds: int, names: Sequence[str]) -> None:
        """Measure variants of a network at a batch size by turns; note what is left out, or fails.

        Every sample builds its variant and warms it up, so no round is thrown away.
        """
        load, peaks = replace(self.load.of(model), batch=batch), dict[str, float]()
        variants = {
            name: Variant(f"{model}, batch {batch}: {name}", VARIANTS[name], partial(self._seconds, load, name))
            for name in names
        }
        series = {name: Series(variant) for name, variant in variants.items()}
        for turn, name in product(range(1, rounds + 1), names):
            if time.perf_counter() - self.begun > 60 * self.minutes:
                self.notes.append(f"{model}, batch {batch}: left out from round {turn}, `{name}` on: the time was up.")
                break
            if name not in variants:
                continue
            self.tell(f"Round {turn} of {rounds}: {variants[name].name}")
            _reset_peak()
            try:
                series[name].samples.append(watched(variants[name]))
                peaks[name] = max(peaks.get(name, 0.0), _peak_mb())
            except (RuntimeError, NotImplementedError) as error:  # memory, or what a device does not offer
                self.notes.append(f"{model}, batch {batch}, {name}: failed: {str(error).splitlines()[0]}")
                del variants[name]
        self.rows += [self._row(load, name, series[name].to_json(), peaks[name]) for name in names if name in peaks]

    @staticmethod
    def _row(load: Load, name: str, found: dict[str, Any], peak: float) -> dict[str, Any]:
        return {
            "model": load.model,
            "batch": load.batch,
            "variant": name,
            "ms a step": 1000 * found["median"],
            "low": 1000 * found["low"],
            "high": 1000 * found["high"],
            "s an epoch": found["median"] * (EPOCH // load.batch),
            # The plain loop runs in another process, whose memory is not seen from here.
            "peak, MiB": "" if name == "plain" or not torch.cuda.is_available() else peak,
            "disturbed": found["disturbed"],
        }

    def _seconds(self, load: Load, name: str) -> float:
        if name == "plain":
            return plain_seconds(load, len(cores_of_this_process()), device())
        if name == "local_full":
            load = replace(load, auxiliary="full")
        return timed(load, *steps_of(load, self.data, name))


def bench_gpu(
    load: Load,
    models: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    minutes: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Return the result of the benchmark, without the machine.

    Args:
        load: Steps of a sample, image size and width.
        models: Networks, smallest first.
        batches: Batch sizes, most wanted first.
        rounds: Samples of each row.
        minutes: After which no other row is begun.
        tell: Hears of the progress.
    """
    rows = max(batches) * (load.steps + load.skip)
    bench = GpuBench(load, noise(min(rows, EPOCH), load.size), minutes, tell)
    for batch in batches:
        for model in models:
            bench.measure(model, batch, rounds, [name for name in VARIANTS if name not in SLOW])
    # These take minutes: a process with readers to start, a network to compile.
    bench.measure(models[0], max(batches), rounds, ["compiled"])
    for model in models:
        bench.measure(model, min(PLAIN_BATCH, max(batches)), 1, ["plain"])
    settings = load.settings() | {"models": "+".join(models), "batch": "+".join(map(str, batches)), "rounds": rounds}
    return {
        "bench": "gpu",
        "about": ABOUT,
        "settings": settings | {"device": device()},
        "rows": bench.rows,
        "ratios": _ratios(bench.rows),
        "notes": [f"`{name}`: {text}." for name, text in VARIANTS.items()] + bench.notes,
    }


def device() -> str:
    """Return where the benchmark computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def steps_of(load: Load, data: AttributeDataset, name: str) -> tuple[Callable[[Batch], object], Iterator[Batch]]:
    """Return what makes a variant's step, and its batches without end."""
    config = EngineConfig.model_validate(
        {"precision": load.precision, "device": device(), "batch_size": load.batch, "threads": most_threads()}
    )
    fabric = make_fabric(config)
    parts = parts_of(load, data, blocks=name != "tuned")
    for part in parts:
        for module in (part.block, part.objective, part.adversary):
            if module is not None:
                module.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stages = [Stage(part, fabric, config) for part in parts]
    if name == "compiled":
        torch.compiler.reset()  # after eight compilations of the same code the next would run as it is
    for stage in stages:
        stage.train()
        if name == "compiled":
            stage.block.compile()
    batches = endless(Batches(data, "train", load.batch, fabric.device, augment=(True, 4)))
    steps = count()

    def begin() -> None:
        number = next(steps)
        for stage in stages:
            stage.begin_step(number, STEPS, STEPS)

    if name == "graphs":
        return _rounds(Pipeline(fabric, stages, next(batches)), begin), batches
    if name == "streams":
        lanes = [Lane.on(fabric.device) for _ in stages]
        advance: Callable[..., object] = partial(streamed_step, lanes)
    else:
        advance = SCHEDULES["local" if name.startswith(("local", "compiled")) else "end_to_end"]

    def step(batch: Batch) -> object:
        begin()
        return advance(fabric, stages, batch, PROGRESS)

    return step, batches


def _rounds(pipeline: Pipeline, begin: Callable[[], None]) -> Callable[[Batch], object]:
    """Return what makes a round of a pipeline at a fixed share of the training."""
    for place in pipeline.places:
        place.progress.fill_(PROGRESS)

    def advance(batch: Batch) -> object:
        begin()
        for stage in pipeline.stages:
            stage.settle()  # not in the round: there a graph would hold it
        pipeline.load(batch, step=0)
        return pipeline.advance()

    return advance


def endless(batches: Batches) -> Iterator[Batch]:
    """Yield the batches of one epoch after the other."""
    for epoch in count():
        yield from batches.epoch(epoch)


def timed(load: Load, step: Callable[[Batch], object], batches: Iterator[Batch]) -> float:
    """Return the seconds of a step, of all that are timed together."""
    with closing(batches):  # type: ignore[type-var]
        for _ in range(load.skip):
            step(next(batches))
        _wait()
        begun = time.perf_counter()
        for _ in range(load.steps):
            step(next(batches))
        _wait()
    return (time.perf_counter() - begun) / load.steps


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Best epoch of each network with its auxiliary network, and how each variant compares with end to end."""
    found: dict[str, float] = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {(row["variant"], row["batch"]): row for row in rows if row["model"] == model}
        with_auxiliary = [row["s an epoch"] for (name, _), row in mine.items() if name not in ("plain", "tuned")]
        if with_auxiliary:
            found[f"epoch_seconds_{model}"] = min(with_auxiliary)
        for (name, batch), row in mine.items():
            base = mine.get(("end_to_end", batch))
            if base is not None and name not in ("plain", "tuned", "end_to_end", "local_full"):
                found[f"{name}_vs_end_to_end_{model}_{batch}"] = base["ms a step"] / row["ms a step"]
    return found


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        gc.collect()  # what the row before leaves in cycles would count for this one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_mb() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
