"""How many threads a process computes with: all its cores, or one where other work holds a core.

Threads of torch wait for each other at the end of every operation: if one of them shares its core, all run at its pace.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

_log = logging.getLogger("efface")

WATCH = 0.25
"""Seconds over which the load is seen before a training starts."""
HELD = 0.5
"""Cores that other work must hold for one thread per process to be the better choice."""


def choose_threads(wanted: int | None, processes: int = 1) -> int:
    """Return the threads of each of so many processes on this machine.

    Args:
        wanted: A number that was asked for; None: cores divided by processes, or 1 where other work holds a core; no
            more than ``most_threads``.
        processes: That compute at the same time.

    Example:
        >>> choose_threads(3, processes=8)
        3
    """
    if wanted is not None:
        return wanted
    cores = len(cores_of_this_process())
    share = most_threads(processes)
    if share == 1:
        return 1
    others = load_of_others()
    if others < HELD:
        return share
    _log.warning(
        "One thread per process: other work holds %.1f of %d cores. Set `engine.threads` to choose another number.",
        others,
        cores,
    )
    return 1


def most_threads(processes: int = 1) -> int:
    """Return the most threads of each of so many processes: its share of cores, or fewer by the user's OMP_NUM_THREADS.

    torchrun sets that to 1 for its processes, which is nobody's wish.
    """
    share, given = len(cores_of_this_process()) // processes, os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    wish = given.isdigit() and int(given) and "TORCHELASTIC_RUN_ID" not in os.environ
    return max(1, min(share, int(given)) if wish else share)


def cores_of_this_process() -> set[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def load_of_others(seconds: float = WATCH) -> float:
    """Return how many of this process's cores other work holds, watched for so many seconds.

    Work of a raised nice value does not count, since it gives way; 0.0 where the system does not tell.
    """
    before, mine_before, begun = busy_seconds(), own_seconds(), time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - begun
    busy = busy_seconds() - before - (own_seconds() - mine_before)
    return max(0.0, busy / passed)


def busy_seconds(nice: bool = False) -> float:
    """Return the seconds that this process's cores have worked since the machine started.

    Args:
        nice: Count work of a raised nice value as well.
    """
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    names = {f"cpu{core}" for core in cores_of_this_process()}
    rows = [line.split() for line in lines if line.split(" ", 1)[0] in names]
    # Columns: user, nice, system, idle, iowait, irq, softirq, steal.
    columns = (1, 2, 3, 6, 7, 8) if nice else (1, 3, 6, 7, 8)
    ticks = sum(int(row[column]) for row in rows for column in columns)
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the processor time of this process and of those children that it has waited for."""
    return sum(os.times()[:4])
