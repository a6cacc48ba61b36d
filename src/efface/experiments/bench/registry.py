"""The benchmarks by name: what each measures, at the size that the goals are set for and at one for a quick try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from efface.engine.threads import choose_threads
from efface.errors import ConfigError, did_you_mean
from efface.experiments.bench.auditing import bench_audit
from efface.experiments.bench.gpu import bench_gpu
from efface.experiments.bench.machine import machine
from efface.experiments.bench.memory import MODELS, bench_memory
from efface.experiments.bench.reading import bench_data, bench_scale
from efface.experiments.bench.step import bench_step
from efface.experiments.bench.workload import Load, network
from efface.experiments.presets import presets
from efface.models import split

Tell = Callable[[str], None]
TINY = Load(width=8, batch=8, size=16, steps=2, skip=1)
TINY_RUN = (
    "data.options.n=600", "data.size=32", "model.options={width: 8}", "engine.epochs=1", "engine.original_epochs=1",
    "audit.suite=custom", "audit.attackers=[linear]", "audit.reconstruction=false",
)  # fmt: skip


FLAGS = {
    key: f"--{key}"
    for key in ("rounds", "blocks", "sizes", "minutes", "model", "at", "width", "batch", "size", "steps")
}
FLAGS |= {"models": "--model", "batches": "--batch", "presets": "--preset", "overrides": "--set", "more": "--brief"}
"""What the settings are called on the command line."""


@dataclass(frozen=True)
class Settings:
    """What can be set about a benchmark; each reads its own.

    Attributes:
        load: Network, cut, batch, image size, steps.
        rounds: Samples of each variant.
        blocks: Most blocks of a cut (memory).
        models: Networks (memory, gpu).
        sizes: Numbers of images (scale).
        batches: Batch sizes (gpu), most wanted first.
        presets: Runs to make (audit).
        overrides: ``section.name=value`` settings of those runs.
        minutes: After which nothing new is begun (gpu).
        more: Also what takes longest: a held core (step), real steps' resident set (memory).
    """

    load: Load = field(default_factory=Load)
    rounds: int = 5
    blocks: int = 2
    models: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    presets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    minutes: float = 6.0
    more: bool = True


@dataclass(frozen=True)
class Bench:
    """A benchmark.

    Attributes:
        about: A line for lists.
        usual: The size that the goals are set for.
        tiny: A size for a quick try, which says nothing about speed.
        measure: Returns the result, without the machine.
        reads: Names of the settings that it reads.
    """

    about: str
    usual: Settings
    tiny: Settings
    measure: Callable[[Settings, Tell], dict[str, Any]]
    reads: frozenset[str]


BENCHES: Mapping[str, Bench] = {
    "step": Bench(
        "seconds of a training step: plain loop, end to end, local, pipelined",
        Settings(Load(steps=6, skip=3), rounds=4),
        Settings(TINY, rounds=1),
        lambda s, tell: bench_step(s.load, s.rounds, tell, hold=s.more),
        frozenset({"load", "rounds", "more"}),
    ),
    "memory": Bench(
        "peak memory of a training step: end to end and alternating, by tensor accounting and as resident set",
        Settings(Load(steps=2, skip=1), models=MODELS, blocks=3),
        Settings(TINY, models=MODELS[:1]),
        lambda s, tell: bench_memory(s.load, tell, s.models, s.blocks, s.more),
        frozenset({"load", "models", "blocks", "more"}),
    ),
    "data": Bench(
        "share of a training step that reading and augmenting take",
        Settings(Load(steps=4, skip=2), rounds=3),
        Settings(TINY, rounds=2),
        lambda s, tell: bench_data(s.load, s.rounds, tell),
        frozenset({"load", "rounds"}),
    ),
    "audit": Bench(
        "seconds of a preset's own audit beside those of training, in whole runs",
        Settings(presets=("toyfaces-smiling-glasses",)),
        Settings(presets=("toyfaces-smiling-glasses",), overrides=TINY_RUN),
        lambda s, tell: bench_audit(s.presets, s.overrides, tell),
        frozenset({"presets", "overrides"}),
    ),
    "scale": Bench(
        "seconds per image and memory, from 5,000 to 200,000 images",
        Settings(Load(width=8, batch=256), sizes=(5_000, 200_000)),
        Settings(TINY, sizes=(64, 128)),
        lambda s, tell: bench_scale(s.load, s.sizes, tell),
        frozenset({"load", "sizes"}),
    ),
    "gpu": Bench(
        "seconds of an epoch on one GPU, by network, batch size and schedule (without a GPU: on the CPU)",
        Settings(Load(steps=20, skip=10), rounds=2, models=MODELS, batches=(1024, 128, 512, 256, 64)),
        Settings(TINY, rounds=1, models=MODELS[:1], batches=(8,)),
        lambda s, tell: bench_gpu(s.load, s.models, s.batches, s.rounds, s.minutes, tell),
        frozenset({"load", "rounds", "models", "batches", "minutes"}),
    ),
}


def settings_of(name: str, tiny: bool = False, **changes: Any) -> Settings:
    """Return a benchmark's settings, with changes; None changes nothing.

    Args:
        name: One of ``BENCHES``.
        tiny: Begin with the size for a quick try.
        changes: Of ``Settings``, or of its ``load``.

    Raises:
        ConfigError: There is no such benchmark, or it does not read a setting.

    Example:
        >>> settings_of("step", width=32, rounds=None).load.width
        32
    """
    bench = BENCHES.get(name)
    if bench is None:
        raise ConfigError(f"Unknown benchmark {name!r}. {did_you_mean(name, BENCHES)}")
    changes = {key: value for key, value in changes.items() if value is not None}
    of_load = {key: changes.pop(key) for key in list(changes) if key in Load.__dataclass_fields__}
    unread = [key for key in changes if key not in bench.reads] + ([] if "load" in bench.reads else [*of_load])
    if unread:
        flags = ", ".join(dict.fromkeys(FLAGS.get(key, key) for key in unread))
        raise ConfigError(f"`efface bench {name}` does not read {flags}. It reads {', '.join(_flags_of(bench))}.")
    start = bench.tiny if tiny else bench.usual
    return replace(start, load=replace(start.load, **of_load), **changes)


def run_bench(name: str, settings: Settings, tell: Tell) -> dict[str, Any]:
    """Return a benchmark's whole result, with the machine that it was made on.

    Args:
        name: One of ``BENCHES``.
        settings: From ``settings_of``.
        tell: Hears of the progress.
    """
    _check(name, settings)
    torch.set_num_threads(choose_threads(None))
    made_on, threads = machine(), torch.get_num_threads()
    found = BENCHES[name].measure(settings, tell)
    return {**found, "goal_size": at_goal_size(name, settings), "machine": {**made_on, "threads": threads}}


def at_goal_size(name: str, settings: Settings) -> bool:
    """Whether what is measured is what the goals are set for.

    How often, for how long, which presets, and where their data lie, does not count.

    Example:
        >>> [at_goal_size("step", settings_of("step", **it)) for it in ({"rounds": 9, "steps": 20}, {"width": 32})]
        [True, False]
        >>> elsewhere = {"presets": ("utkface-gender-race",), "overrides": ("data.source=there",)}
        >>> fewer = elsewhere | {"overrides": ("data.limit=100",)}
        >>> [at_goal_size("audit", settings_of("audit", **it)) for it in (elsewhere, fewer)]
        [True, False]
    """
    usual = BENCHES[name].usual
    load = replace(settings.load, steps=usual.load.steps, skip=usual.load.skip)
    often = {key: getattr(usual, key) for key in ("rounds", "blocks", "minutes", "more")}
    named = usual.presets if set(settings.presets) <= set(presets()) else settings.presets
    overrides = tuple(one for one in settings.overrides if not one.startswith("data.source="))
    return replace(settings, load=load, presets=named, overrides=overrides, **often) == usual


def _check(name: str, settings: Settings) -> None:
    """Try what can fail before anything is measured: networks and cut."""
    if "load" in BENCHES[name].reads:
        for model in settings.models or (settings.load.model,):
            load = settings.load.of(model) if settings.models else settings.load
            split(network(load), load.at, torch.zeros(2, 3, load.size, load.size))


def _flags_of(bench: Bench) -> list[str]:
    """Return the flags of the settings that a benchmark reads."""
    read = [key for key in FLAGS if key in bench.reads or ("load" in bench.reads and key in Load.__dataclass_fields__)]
    return sorted({FLAGS[key] for key in read})


__all__ = ["BENCHES", "Bench", "Settings", "run_bench", "settings_of"]
