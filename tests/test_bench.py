"""Benchmarks: figures that can be checked by hand, samples that are watched, results that say where they were made."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from conftest import Net
from efface.cli import bench, ls
from efface.cli.app import ALLOCATOR, app
from efface.errors import ConfigError, EffaceError, TrainingError
from efface.experiments.bench import (
    BENCHES,
    gpu,
    memory,
    plain,
    reading,
    registry,
    sampling,
    settings_of,
    step,
    workload,
)
from efface.experiments.bench import apart as apart_module
from efface.experiments.bench.apart import apart
from efface.experiments.bench.goals import GOALS, overview
from efface.experiments.bench.registry import TINY, run_bench
from efface.experiments.bench.sampling import Variant, alternate, ratio
from efface.experiments.bench.write import to_markdown


def silent(_text):
    pass


class Meter:
    """Clocks that a test moves: the machine's busy time, this process's own, and what passes."""

    def __init__(self, monkeypatch):
        self.busy = self.own = self.now = 0.0
        monkeypatch.setattr(sampling, "busy_seconds", lambda nice=False: self.busy)
        monkeypatch.setattr(sampling, "own_seconds", lambda: self.own)
        monkeypatch.setattr(sampling.time, "perf_counter", lambda: self.now)

    def work(self, seconds, others=0.0):
        self.now += seconds
        self.own += seconds
        self.busy += seconds + others
        return seconds


def test_variants_alternate_and_the_first_round_is_thrown_away():
    calls = []
    variants = [Variant(name, "", lambda name=name: calls.append(name) or float(len(calls))) for name in "ab"]
    found = alternate(variants, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [sample.value for sample in found["a"].samples] == [3.0, 5.0]
    calls.clear()
    assert [sample.value for sample in alternate(variants, 2, warm_up=False)["a"].samples] == [1.0, 3.0]


def test_a_disturbed_sample_is_marked_kept_and_left_out_of_the_median(monkeypatch):
    meter, loads = Meter(monkeypatch), iter([0.0, 0.0, 5.0, 0.0])
    series = alternate([Variant("one", "", lambda: meter.work(10.0, next(loads)))], rounds=3)["one"]
    assert [sample.disturbed for sample in series.samples] == [False, True, False]
    assert [sample.others for sample in series.samples] == pytest.approx([0.0, 0.5, 0.0])
    shown = series.to_json()
    assert (shown["disturbed"], len(shown["samples"])) == (1, 3)


def test_the_median_is_of_all_samples_where_all_are_disturbed(monkeypatch):
    meter, values = Meter(monkeypatch), iter([9.0, 1.0, 2.0, 6.0])
    series = alternate([Variant("one", "", lambda: meter.work(next(values), others=100.0))], rounds=3)["one"]
    assert series.median == 2.0


def test_a_ratio_is_of_the_medians_with_the_spread_of_undisturbed_rounds(monkeypatch):
    meter = Meter(monkeypatch)
    slow, fast = iter([0.0, 8.0, 6.0, 30.0]), iter([0.0, 4.0, 2.0, 3.0])
    others = iter([0.0, 0.0, 0.0, 100.0])
    found = alternate(
        [
            Variant("slow", "", lambda: meter.work(next(slow), next(others))),
            Variant("fast", "", lambda: meter.work(next(fast))),
        ],
        rounds=3,
    )
    assert ratio(found, "slow", "fast") == pytest.approx({"median": 7.0 / 3.0, "low": 2.0, "high": 3.0})


@pytest.fixture
def here(monkeypatch):
    """Measurements that would start a process are made in this one: a start takes seconds."""
    for module in (plain, memory, reading):
        monkeypatch.setattr(module, "apart", lambda function, *arguments, plain=False: function(*arguments))


def test_step_reports_every_ratio_and_the_bound_of_its_blocks(here, monkeypatch):
    seconds = {"tuned": 1.0, "one_thread": 6.0, "all_threads": 4.0, "local": 5.0, "pipelined": 3.0}
    monkeypatch.setattr(step, "plain_seconds", lambda load, threads: 2.5)
    monkeypatch.setattr(step, "block_seconds", lambda load, data: [4.0, 2.0])

    def measured(load, data, schedule, threads, blocks=True):
        if not blocks:
            return seconds["tuned"]
        name = {"local": "local", "local_parallel": "pipelined"}.get(schedule)
        return seconds[name or ("one_thread" if threads == 1 else "all_threads")]

    monkeypatch.setattr(step, "step_seconds", measured)
    monkeypatch.setattr(step, "cores_of_this_process", lambda: {0, 1})
    result = step.bench_step(TINY, 2, silent, hold=False)
    assert result["ratios"] == pytest.approx(
        {
            "tuned_vs_plain": 2.5,
            "pipelined_vs_one_thread": 2.0,
            "pipelined_vs_two_threads": 4 / 3,
            "local_vs_end_to_end": 0.8,
        }
    )
    assert result["bound"] == {"pipelined_vs_one_thread": 1.5}


def test_step_measures_every_variant_for_real(here):
    result = run_bench("step", settings_of("step", tiny=True, batch=4), silent)
    assert set(result["ratios"]) == set(step.RATIOS)
    assert all(value > 0 for value in result["ratios"].values())
    assert set(result["variants"]) == {name for pair in step.RATIOS.values() for name in pair}
    assert all(entry["median"] > 0 for entry in result["variants"].values())
    assert len(result["blocks"]) == 2
    assert result["peak"]["share"] > 0
    made_on = result["machine"]
    assert made_on["hardware"]["cpu"]
    assert made_on["torch"] == torch.__version__
    assert made_on["threads"] >= 1
    assert made_on["load_before"] >= 0


def test_memory_counts_what_alternating_training_saves(here, monkeypatch):
    """Batches that are large beside the weights: the blocks' activations are not there at the same time."""
    monkeypatch.setattr(memory, "network", lambda load: Net(classes=10))
    monkeypatch.setattr(workload, "network", lambda load: Net(classes=10))
    load = replace(TINY, at=("middle",), batch=256, size=32)
    result = memory.bench_memory(load, silent, ["net"], blocks=3, resident=False)
    two = [row for row in result["rows"] if row["blocks"] == 2]
    assert result["saving"]["net"] == max(row["saving"] for row in two)
    assert result["saving_more_blocks"]["net"] == max(row["saving"] for row in result["rows"] if row["blocks"] == 3)
    best = max(two, key=lambda row: row["saving"])
    assert 0.1 < best["saving"] < 0.6
    assert best["saving"] == pytest.approx(1 - best["local, MiB"] / best["end to end, MiB"])
    assert ("middle", 2) in [(row["cut after"], row["blocks"]) for row in result["rows"]]
    assert all(row["local, MiB"] < row["end to end, MiB"] for row in result["rows"])


def test_reading_is_a_share_of_the_step(here):
    result = reading.bench_data(TINY, 1, silent)
    assert 0 < result["ratios"]["reading_share_of_step"] < 1


def test_scale_reads_images_from_a_file_and_tells_time_and_memory_for_each_size(here):
    result = reading.bench_scale(TINY, (16, 64), silent)
    assert [row["images"] for row in result["rows"]] == [16, 64]
    assert [round(row["file, MiB"] * 2**20) for row in result["rows"]] == [
        (n + 40 + 80) * 3 * 16 * 16 for n in (16, 64)
    ]
    assert all(row["us per image"] > 0 and row["anonymous, MiB"] > 0 for row in result["rows"])
    first, last = result["rows"]
    assert result["ratios"]["seconds_per_image_largest_vs_smallest"] == last["us per image"] / first["us per image"]


def test_stored_noise_is_memory_mapped_and_its_training_rows_are_the_asked_number(tmp_path):
    data = reading.stored_noise(5000, 8, tmp_path / "images.npy")
    assert isinstance(data.images, np.memmap)
    assert len(data.rows("train")) == 5000
    assert data.images[4999].std() > 0
    assert not set(data.rows("test").tolist()) & set(data.rows("train").tolist())


def test_audit_tells_each_run_s_share(monkeypatch, tmp_path):
    from efface.experiments.bench import auditing

    class Done:
        class audit:
            phases = {"read_s": 1.0, "train_s": 8.0, "audit_s": 2.0, "peak_rss_mb": 700.0}  # noqa: RUF012

    runs = []
    monkeypatch.setattr(auditing, "run", lambda config, out, progress: runs.append(config) or Done)
    result = auditing.bench_audit(["toyfaces-smiling-glasses"], ["engine.epochs=3"], silent)
    assert result["ratios"] == {"audit_share_toyfaces-smiling-glasses": 0.25}
    assert runs[0].engine.epochs == 3


def test_gpu_measures_every_variant_on_the_cpu_where_there_is_none(here, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))  # it takes a compiler half a minute
    result = gpu.bench_gpu(replace(TINY, steps=1), ["resnet18"], [8], 1, 5.0, silent)
    assert sorted(row["variant"] for row in result["rows"]) == sorted(gpu.VARIANTS)
    assert len(compiled) == 2
    row = result["rows"][2]
    assert row["s an epoch"] == pytest.approx(row["ms a step"] / 1000 * (50_000 // 8))
    with_auxiliary = [r["s an epoch"] for r in result["rows"] if r["variant"] not in ("plain", "tuned")]
    assert result["ratios"]["epoch_seconds_resnet18"] == min(with_auxiliary)
    assert result["settings"]["device"] == gpu.device()


def test_gpu_stops_when_its_time_is_up_and_notes_what_fails(monkeypatch):
    def broken(load, data, name):
        raise RuntimeError(f"out of memory\nat {name}")

    monkeypatch.setattr(gpu, "steps_of", broken)
    monkeypatch.setattr(gpu, "plain_seconds", lambda load, threads, device: 1.0)
    result = gpu.bench_gpu(TINY, ["resnet18"], [8], 1, 5.0, silent)
    assert [row["variant"] for row in result["rows"]] == ["plain"]
    assert "resnet18, batch 8, local: failed: out of memory" in result["notes"]
    late = gpu.bench_gpu(TINY, ["resnet18", "resnet50"], [8], 1, -1.0, silent)
    assert late["rows"] == []
    assert late["notes"][-1] == "resnet50, batch 8: left out from round 1, `plain` on: the time was up."


def test_gpu_measures_variants_by_turns_and_keeps_what_was_measured_in_time(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock[0])

    def seconds(self, load, name):
        order.append(name)
        if name == "local" and len(order) > 2:
            raise RuntimeError("out of memory")
        clock[0] += 20
        return float(len(order))

    monkeypatch.setattr(gpu.GpuBench, "_seconds", seconds)
    bench = gpu.GpuBench(TINY, gpu.noise(64, 16), 1.5, silent, begun=0.0)
    bench.measure("resnet18", 8, 4, ["tuned", "local", "streams"])
    assert order == ["tuned", "local", "streams", "tuned", "local", "streams"]
    found = {row["variant"]: (row["low"], row["high"]) for row in bench.rows}
    assert found == {"tuned": (1000, 4000), "local": (2000, 2000), "streams": (3000, 6000)}
    assert bench.notes == [
        "resnet18, batch 8, local: failed: out of memory",
        "resnet18, batch 8: left out from round 3, `tuned` on: the time was up.",
    ]


def test_a_process_apart_has_the_plain_allocator_if_asked_and_tells_its_errors(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert apart(os.getenv, "MALLOC_ARENA_MAX", plain=True) is None
    assert os.environ["MALLOC_ARENA_MAX"] == "1"


def test_a_measurement_that_fails_apart_says_so(monkeypatch):
    """With a fork in place of a fresh start, which takes seconds."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(apart_module, "get_context", lambda _: fork)
    with pytest.raises(TrainingError, match=r"The process of a measurement \(sqrt\) failed: ValueError"):
        apart(math.sqrt, -1.0)
    with pytest.raises(TrainingError, match=r"\(_exit\) failed: it ended with exit code 3"):
        apart(os._exit, 3)


def test_settings_are_those_of_the_goals_unless_changed():
    usual = settings_of("step")
    assert (usual.load.model, usual.load.width, usual.load.batch, usual.load.at) == ("resnet18", 64, 128, ("layer2",))
    assert settings_of("step", tiny=True).load == TINY
    assert settings_of("memory", width=32, blocks=None).load.width == 32
    with pytest.raises(ConfigError, match=r"Unknown benchmark 'stpe'. Did you mean 'step'"):
        settings_of("stpe")
    with pytest.raises(
        ConfigError, match=r"does not read --sizes, --minutes\. It reads --at, --batch, --model, --rounds"
    ):
        settings_of("data", sizes=(5,), minutes=1.0)
    with pytest.raises(ConfigError, match=r"does not read --width, --batch\. It reads --preset, --set"):
        settings_of("audit", width=3, batch=2)


def command(*arguments):
    assert bench is not None
    assert ls is not None  # an application of one verb would take none
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bench", *arguments])


def test_the_command_writes_json_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "machine", lambda: MACHINE)
    out = tmp_path / "results" / "data.json"
    shown = command("data", "--smoke", "--rounds", "1", "--batch", "4", "--out", str(out))
    assert shown.exit_code == 0, shown.output
    result = json.loads(out.read_text())
    assert result["settings"]["batch"] == 4
    assert result["goal_size"] is False
    assert result["machine"]["hardware"] == MACHINE["hardware"]
    page = out.with_suffix(".md").read_text()
    assert page == to_markdown(result)
    assert page in shown.output
    for text in ("# efface bench data", "| reading |", "| step |", "reading_share_of_step", "a fast one, 1 cores used"):
        assert text in page


def test_what_is_wrong_is_told_before_anything_is_measured(tmp_path):
    for arguments, text in [
        (["data", "--out", "x.md"], "Expected `--out` to be a file ending in .json, but got 'x.md'"),
        (["data", "--out", str(tmp_path / "x.json"), "--batch", "4,5"], "one number, except for gpu, but got '4,5'"),
        (["gpu", "--out", str(tmp_path / "x.json"), "--batch", "4,b"], "numbers above 0, separated by commas"),
        (["step", "--out", str(tmp_path / "x.json"), "--model", "resnet1"], "Did you mean 'resnet18'"),
        (["step", "--out", str(tmp_path / "x.json"), "--at", "layer9"], "layer9"),
        (["step", "--out", "/proc/none/x.json"], "Cannot write"),
    ]:
        shown = command(*arguments)
        assert isinstance(shown.exception, EffaceError), arguments
        assert text in str(shown.exception), arguments
    assert list(tmp_path.iterdir()) == []


def test_every_benchmark_is_listed_in_the_help():
    shown = command("--help").output
    assert all(name in shown for name in BENCHES)


MACHINE = {
    "started": "2026-01-02T03:04:05+00:00",
    "hardware": {"cpu": "a fast one", "cores": 1, "memory_gb": 1.0, "accelerator": "none"},
    "cores_used": 1,
    "python": "3.11",
    "versions": {"torch": "2"},
    "environment": {},
    "load_before": 0.0,
    "command": "efface bench",
}


def test_the_page_of_a_result_shows_rows_ratios_notes_and_machine():
    result = {
        "bench": "scale",
        "about": "About it.",
        "settings": {"batch": 8},
        "rows": [{"images": 5, "us per image": 1.23456}],
        "ratios": {"largest_vs_smallest": 1.5},
        "notes": ["A note."],
        "machine": MACHINE,
    }
    page = to_markdown(result)
    assert "| images | us per image |\n|---|---|\n| 5 | 1.235 |" in page
    assert "| largest_vs_smallest | 1.500 |" in page
    assert "- A note." in page
    assert "2026-01-02, a fast one, 1 cores used" in page


def test_the_allocator_keeps_large_buffers_in_the_first_thread_and_in_others():
    """Faults of pages, in a process that is started afresh: a buffer of 48 MiB is faulted in once."""
    code = """
import resource, threading
from efface.cli.app import keep_freed_memory
keep_freed_memory()
import torch
def faults():
    make = lambda: [torch.ones(48 << 18) for _ in range(3)] and None
    for _ in range(8):
        make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        make()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults()
thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""
    clean = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert [int(line) < 1000 for line in done.stdout.split()] == [True, True], done.stdout  # 147,456 without


def test_the_allocator_s_settings_reach_processes_and_spare_the_user_s(monkeypatch):
    from efface.cli import app as command_line

    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    calls = []

    class Libc:
        def mallopt(self, number, value):
            calls.append((number, value))
            return number != -1  # a setting that is refused is not passed on

    monkeypatch.setattr(command_line.ctypes, "CDLL", lambda _: Libc())
    command_line.keep_freed_memory()
    assert calls == [(-3, 1 << 30), (-1, 2**31 - 1)]
    assert {name: os.environ.get(name) for name in ALLOCATOR} == {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": None,
        "MALLOC_ARENA_MAX": "7",
    }


def test_the_overview_sets_goals_beside_what_was_measured_and_leaves_out_the_rest():
    step_result = {
        "bench": "step",
        "goal_size": True,
        "ratios": {"tuned_vs_plain": 3.5, "pipelined_vs_one_thread": 1.5},
        "peak": {"share": 0.8},
        "variants": {"plain": {"disturbed": 2}, "tuned": {"disturbed": 1}},
        "machine": MACHINE,
    }
    cuts = [{"model": "resnet50", "blocks": blocks, "saving against plain": 0.1 * blocks} for blocks in (2, 3)]
    memory_result = {"bench": "memory", "goal_size": False, "saving": {"resnet50": 0.4}, "rows": cuts}
    epochs = [("graphs", 1024, 0.9), ("local", 1024, 1.1), ("local", 128, 1.2), ("plain", 128, 0.5)]
    gpu_rows = [{"model": "resnet18", "variant": v, "batch": b, "s an epoch": s} for v, b, s in epochs]
    gpu_result = {"bench": "gpu", "goal_size": True, "ratios": {}, "rows": gpu_rows, "machine": MACHINE}
    earlier = gpu_result | {"rows": [{"model": "resnet34", "variant": "local", "batch": 1024, "s an epoch": 1.7}]}
    results = {"step": step_result, "memory": memory_result | {"machine": MACHINE}, "gpu-1": earlier, "gpu": gpu_result}
    page = overview(results)
    assert "ResNet-34, batch 1024, a target head as auxiliary network | ≤ 2 | 1.7 | met |" in page
    assert "[gpu-1](gpu-1.md)" in page
    assert "| step | tuned end to end against the plain loop, × | ≥ 3 | 3.5 | met |" in page
    assert "| step | pipelined against one thread, × | ≥ 1.7 | 1.5 | not met |" in page
    assert "| step | share of the matrix product's rate, tuned | ≥ 0.8 | 0.8 | met |" in page
    assert "| memory | saving of ResNet-50 | ≥ 0.38 | 0.4 | of another size |" in page
    assert "| memory | saving of ResNet-50, against the network alone" in page
    assert "| ≥ 0.38 | 0.2 | of another size |" in page, "the cut into three has no goal"
    assert "ResNet-18, batch 1024, a target head as auxiliary network | ≤ 1 | 0.9 | met |" in page
    assert "ResNet-18, batch 128, a target head as auxiliary network | ≤ 1 | 1.2 | not met |" in page
    assert "removal heads" not in page
    assert "saving of ResNet-18" not in page
    assert "| data |" not in page
    assert "3 disturbed sample(s)" in page
    assert not next(goal for goal in GOALS if goal.bench == "data").met(0.06)  # smaller is better


PYTHON_THAT_NOTES = """#!/usr/bin/env bash
echo "$*" >> "{log}"
data= out= previous=
for word in "$@"; do
  [ "$previous" != --data ] || data=$word
  [ "$previous" != --out ] || out=$word
  previous=$word
done
[ -z "$data" ] || cat "$data/train.parquet" >> "{log}"
case "$*" in
  *summarise.py*) mkdir -p "$out" && touch "$out/README.md" "$out/found.json" ;;
  *gpu_check.py*) exit {check} ;;
esac
"""


@pytest.mark.parametrize("check", [0, 1])
def test_the_script_for_a_gpu_checks_measures_and_unlearns_from_data_in_pieces(tmp_path, check):
    """What it calls, with an interpreter that notes it; that each of these works on the CPU is tested elsewhere."""
    log, python, data, out = (tmp_path / name for name in ("log.txt", "python", "data", "out"))
    python.write_text(PYTHON_THAT_NOTES.format(log=log, check=check))
    python.chmod(0o755)
    data.mkdir()
    for part, text in (("aa", "first "), ("ab", "second\n")):
        (data / f"train.parquet.part-{part}").write_text(text)
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.sh"
    environment = {**os.environ, "PYTHON": str(python), "CIFAR10": str(data), "METHODS": "detachment original"}
    environment |= {"SMOKE": "1", "SECONDS_IN_ALL": "60"}
    done = subprocess.run(
        ["bash", script, out], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == check, done.stderr
    calls = log.read_text().splitlines()
    assert [call.split()[0] for call in calls[:3]] == ["benchmarks/gpu_needs.py", "benchmarks/gpu_check.py", "-m"]
    assert "bench gpu --smoke" in calls[2], "also where the check failed: the figures are worth having"
    runs = [place for place, call in enumerate(calls) if "efface run cifar10-living-class" in call]
    assert [calls[place].split("method.name=")[1].split()[0] for place in runs] == ["detachment", "original"]
    assert all(calls[place + 1] == "first second" for place in runs)
    assert sorted(path.name for path in out.glob("*/*")) == ["found.json", "found.json"]
