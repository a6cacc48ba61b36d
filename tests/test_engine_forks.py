"""Pieces of work side by side in forked processes: answers, errors, deaths, and nobody left behind."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from efface.engine import forks
from efface.engine.forks import side_by_side
from efface.errors import DataError, TrainingError
from parallel_helpers import assert_ended_with


def test_answers_come_from_other_processes_with_what_this_one_had():
    torch.set_num_threads(2)
    numbers = torch.randn(300, 300)
    (numbers @ numbers).sum()  # OpenMP's threads are there when the children are made

    def work(number):
        return os.getpid(), number * (numbers @ numbers).sum(), torch.get_num_threads()

    found = dict(side_by_side(work, [3, 1, 2, 0], workers=2, threads=2))
    assert sorted(found) == [0, 1, 2, 3]
    assert os.getpid() not in {process for process, *_ in found.values()}
    assert len({process for process, *_ in found.values()}) <= 2
    for number, (_, total, threads) in found.items():
        torch.testing.assert_close(total, number * (numbers @ numbers).sum())
        assert threads == 2
    assert multiprocessing.active_children() == []


def test_the_first_numbers_are_begun_first():
    begun = multiprocessing.get_context("fork").SimpleQueue()
    list(side_by_side(begun.put, [2, 0, 1], workers=1, threads=1))
    assert [begun.get() for _ in range(3)] == [2, 0, 1]


def test_an_error_of_a_child_is_the_parent_s():
    def work(number):
        if number:
            raise (DataError("bad rows") if number == 1 else ZeroDivisionError("oh no"))

    with pytest.raises(DataError, match=r"^bad rows$") as caught:
        list(side_by_side(work, [0, 1, 0], workers=2, threads=1))
    assert "in work" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match=r"^ZeroDivisionError: oh no$"):
        list(side_by_side(work, [0, 2], workers=2, threads=1))
    with pytest.raises(RuntimeError, match="pickle"):  # an answer that can't be sent
        list(side_by_side(lambda number: lambda: number, [0], workers=1, threads=1))
    assert multiprocessing.active_children() == []


def test_a_killed_child_ends_all():
    def work(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(TrainingError, match=r"was killed by SIGKILL. Was memory short"):
        list(side_by_side(work, [0, 1], workers=2, threads=1))
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


def test_a_child_that_dies_before_it_is_asked_ends_all(monkeypatch):
    """Its end of the pipe is closed with a number in it that nobody read."""
    monkeypatch.setattr(forks, "compute", lambda work, lifeline: (time.sleep(0.3), os._exit(3)))
    with pytest.raises(TrainingError, match=r"ended with exit code 3\.$"):
        list(side_by_side(lambda number: number, [0, 1], workers=2, threads=1))
    assert multiprocessing.active_children() == []


def test_children_end_with_their_parent(tmp_path):
    def work(number):
        (tmp_path / f"{os.getpid()}.pid").touch()
        time.sleep(60)

    parent = multiprocessing.get_context("fork").Process(
        target=lambda: list(side_by_side(work, [0, 1], workers=2, threads=1))
    )
    parent.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [path.stem for path in tmp_path.iterdir()]
    assert len(children) == 2
    assert_ended_with(parent, children)


def test_who_stops_listening_leaves_nobody():
    answers = side_by_side(lambda number: number, [0, 1, 2, 3], workers=2, threads=1)
    next(answers)
    answers.close()
    assert multiprocessing.active_children() == []
