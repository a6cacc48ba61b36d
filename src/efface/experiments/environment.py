"""environment.json: what a run was made with, so that a reader can judge and repeat it."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import efface

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "lightning-fabric",
    "datasets",
    "scikit-learn",
    "pydantic",
)


def describe(seed: int) -> dict[str, object]:
    """Return versions, hardware, command and start time."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": {"efface": efface.__version__} | {name: v for name in PACKAGES if (v := _version(name))},
        "hardware": hardware(),
        "command": command(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }


def command() -> str:
    """Return the command line as a user would type it."""
    program, *arguments = sys.argv
    name = Path(program).name
    return shlex.join(["efface" if name == "__main__.py" else name, *arguments])


def hardware() -> dict[str, object]:
    """Return processor, cores, memory and accelerator."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def peak_rss_mb() -> float:
    """Return the largest resident set of this process so far, in MiB; mapped files count while they are resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
