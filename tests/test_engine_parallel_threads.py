"""Threads: all cores, unless other work holds one; a resumed run keeps its number."""

import logging
import multiprocessing
import os
import time

import pytest
import torch

from efface.engine import Job, Part, fit, threads
from efface.engine.checkpoints import Checkpoints
from efface.objectives import ClassifierObjective
from parallel_helpers import FAST


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(threads, "cores_of_this_process", lambda: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS")  # the tests' own


@pytest.mark.parametrize(("processes", "expected"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_idle_cores_are_shared_out(four_cores, monkeypatch, processes, expected):
    monkeypatch.setattr(threads, "load_of_others", lambda: 0.1)
    assert threads.choose_threads(None, processes) == expected
    assert threads.choose_threads(7, processes) == 7


@pytest.mark.parametrize(
    ("given", "run", "expected"),
    [("1", None, 1), ("3", None, 3), ("9", None, 4), ("2,1", None, 2), ("", None, 4), ("1", "x", 4)],
)
def test_the_users_own_limit_holds_and_torchruns_default_is_nobodys(four_cores, monkeypatch, given, run, expected):
    monkeypatch.setattr(threads, "load_of_others", lambda: 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    if run:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
    assert threads.choose_threads(None, 1) == expected
    assert threads.choose_threads(3, 1) == 3


def test_where_other_work_holds_a_core_it_is_one_thread_and_said(four_cores, monkeypatch, caplog):
    monkeypatch.setattr(threads, "load_of_others", lambda: 1.04)
    with caplog.at_level(logging.WARNING, "efface"):
        assert threads.choose_threads(None, 2) == 1
        assert threads.choose_threads(2, 2) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "One thread per process: other work holds 1.0 of 4 cores. Set `engine.threads` to choose another number."
    ]


STAT = """cpu  999 999 999 999 999 999 999 999 0 0
cpu0 100 7000 20 5000 600 1 2 3 0 0
cpu1 1000 0 0 5000 0 0 0 0 0 0
cpu9 5 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_busy_time_counts_own_cores_and_leaves_out_idle_waiting_and_nice_work(monkeypatch):
    monkeypatch.setattr(threads, "cores_of_this_process", lambda: {0, 9})
    monkeypatch.setattr(threads.Path, "read_text", lambda self: STAT)
    ticks = 100 + 20 + 1 + 2 + 3 + 5
    assert threads.busy_seconds() == ticks / os.sysconf("SC_CLK_TCK")


def test_own_work_is_not_that_of_others(monkeypatch):
    """A clock that only this process moves shows no foreign load; one that others move does."""
    busy, own = iter([10.0, 10.5]), iter([3.0, 3.4])
    monkeypatch.setattr(threads, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(threads, "own_seconds", lambda: next(own))
    assert threads.load_of_others(0.1) == pytest.approx(1.0, rel=0.3)


def spin(end):
    while time.monotonic() < end:
        pass


def test_the_load_of_a_spinning_process_is_seen():
    process = multiprocessing.get_context("fork").Process(target=spin, args=(time.monotonic() + 20,))
    process.start()
    try:
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0))
        if os.getpriority(os.PRIO_PROCESS, process.pid) > 0:
            pytest.skip("nice work does not count, and these tests run nice")
        assert threads.load_of_others(0.5) > 0.3
    finally:
        process.kill()
        process.join()


def test_a_resumed_run_keeps_its_number_of_threads(net, faces, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "load_of_others", lambda: 0.0)
    begun = FAST.model_copy(update={"epochs": 1, "threads": 3})
    job = Job(progress=False, folder=tmp_path, fingerprint="f", resume=True)
    fit([Part(net, ClassifierObjective())], faces, begun, job)
    assert Checkpoints(tmp_path / "checkpoints", "unlearned", "f").load()["threads"] == 3
    monkeypatch.setattr(threads, "cores_of_this_process", lambda: {0})
    resumed = begun.model_copy(update={"threads": None, "epochs": 2})
    fit([Part(net, ClassifierObjective())], faces, resumed, job)
    assert torch.get_num_threads() == 3
