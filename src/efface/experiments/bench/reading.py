"""``bench data`` and ``bench scale``: what reading and augmenting cost, and whether size matters."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.engine import Job, fit
from efface.engine.threads import cores_of_this_process, most_threads
from efface.experiments.bench.apart import apart
from efface.experiments.bench.sampling import Variant, alternate, watched
from efface.experiments.bench.workload import Load, noise, parts_of, rows_of, step_seconds
from efface.experiments.environment import peak_rss_mb

ABOUT_DATA = (
    "Reading and augmenting one batch (mirror, shift, to floats) on one thread, while nothing else is computed, and a "
    "local training step with all threads. In training a thread gathers ahead, so that less than this share shows."
)
ABOUT_SCALE = (
    "One epoch of a small network on images in a memory-mapped file, each size in a process of its own. `anonymous` is "
    "what the process holds itself; the resident set also counts pages of the file that happen to be in memory."
)
CHUNK = 4096


def bench_data(load: Load, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what share of a step reading and augmenting take, without the machine."""
    data, cores = noise(rows_of(load), load.size), len(cores_of_this_process())
    variants = [
        Variant("reading", "gather, augment and normalise one batch, 1 thread", lambda: batch_seconds(load, data)),
        Variant("step", f"local training step, {cores} thread(s)", lambda: step_seconds(load, data, "local", cores)),
    ]
    series = alternate(variants, rounds, tell)
    share = series["reading"].median / series["step"].median
    return {
        "bench": "data",
        "about": ABOUT_DATA,
        "unit": "ms",
        "scale": 1000.0,
        "settings": {**load.settings(), "rounds": rounds},
        "variants": {name: one.to_json() for name, one in series.items()},
        "ratios": {"reading_share_of_step": share},
    }


def batch_seconds(load: Load, data: AttributeDataset) -> float:
    """Return the median seconds from batch to batch where nothing is done with them."""
    torch.set_num_threads(1)
    times = [time.perf_counter()]
    times += [time.perf_counter() for _ in Batches(data, "train", load.batch, augment=(True, 4)).epoch(0)]
    return median(np.diff(times)[min(load.skip, len(times) - 2) :].tolist())


def bench_scale(load: Load, sizes: Sequence[int], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return seconds per image and memory over the number of images, without the machine."""
    rows = []
    for size in sizes:
        tell(f"{size:,} images")
        rows.append(_row(load, size))
    first, last = rows[0], rows[-1]
    return {
        "bench": "scale",
        "about": ABOUT_SCALE,
        "settings": {**load.settings(), "sizes": "+".join(map(str, sizes))},
        "rows": rows,
        "ratios": {
            "seconds_per_image_largest_vs_smallest": last["us per image"] / first["us per image"],
            "anonymous_memory_largest_vs_smallest": last["anonymous, MiB"] / first["anonymous, MiB"],
        },
    }


def _row(load: Load, size: int) -> dict[str, Any]:
    """One size, measured in a process of its own, with what other work held meanwhile."""
    found: dict[str, Any] = {}

    def measure() -> float:
        found.update(apart(_epoch, load, size))
        return float(found["us per image"])

    sample = watched(Variant("epoch", "", measure))
    return {"images": size, **found, "others held, cores": round(sample.others, 2), "disturbed": sample.disturbed}


def _epoch(load: Load, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        data = stored_noise(size, load.size, Path(folder) / "images.npy")
        config = EngineConfig.model_validate(
            {
                "epochs": 1,
                "batch_size": load.batch,
                "precision": load.precision,
                "device": "cpu",
                "threads": most_threads(),
            }
        )
        before = anonymous_mb()
        history = fit(parts_of(load, data), data, config, Job(progress=False))
        return {
            "us per image": 1e6 * history.seconds / (history.steps * load.batch),
            "anonymous, MiB": anonymous_mb(),
            "anonymous before, MiB": before,
            "peak resident, MiB": peak_rss_mb(),
            "file, MiB": data.images.nbytes / 2**20,
        }


def stored_noise(rows: int, size: int, path: Path) -> AttributeDataset:
    """Return random images in a memory-mapped file, written a chunk at a time."""
    small = noise(CLASS_ROWS, size)
    total = rows + len(small)
    header = {"descr": "|u1", "fortran_order": False, "shape": (total, 3, size, size)}
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, total, CHUNK):
            count = min(CHUNK, total - start)
            file.write(generator.integers(0, 256, (count, 3, size, size), np.uint8).data)
    labels = {name: np.resize(values, total) for name, values in small.labels.items()}
    splits = {name: rows + values for name, values in small.splits.items()} | {"train": np.arange(rows)}
    images = np.load(path, mmap_mode="r")
    return replace(small, images=images, labels=labels, splits=splits)


CLASS_ROWS = 40
"""Rows of the small set that lends its schema."""


def anonymous_mb() -> float:
    """Return the memory in MiB that this process holds itself, mapped files left out; 0 where that is unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
