"""Attackers side by side find what they find in turn."""

import dataclasses
import multiprocessing
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audit_helpers import column, dataset, feature_set, network
from efface.audit import audit, crew
from efface.audit.attack import Settings, run_suite
from efface.audit.attackers import build_attacker
from efface.config import AuditConfig
from efface.errors import TrainingError

SUITE = ("conv", "mlp", "linear", "knn", "trees", "ensemble")


@pytest.fixture(scope="module")
def released():
    generator = np.random.default_rng(0)
    y, z = generator.integers(0, 2, (2, 3200))
    maps = generator.normal(size=(3200, 8, 4, 4))
    maps[:, 0] += (2 * z - 1)[:, None, None]
    return feature_set(maps, y, z)


def settings(**changes):
    config = AuditConfig(epochs=2, attackers=SUITE)
    return Settings(config, [build_attacker(name) for name in SUITE], "y", **changes)


def without_seconds(outcome):
    return dataclasses.replace(outcome.attack, seconds=0.0)


@pytest.fixture
def forked(monkeypatch):
    """Two workers, whatever there is to do; the numbers that each call shared out."""
    calls = []

    def watched(work, order, workers, threads):
        calls.append((list(order), workers, threads))
        return side_by_side(work, order, workers, threads)

    side_by_side = crew.side_by_side
    monkeypatch.setattr(crew, "side_by_side", watched)
    monkeypatch.setattr(crew, "WORTHWHILE", 0.0)
    return calls


@pytest.mark.parametrize(
    ("seconds", "threads", "workers"),
    [
        ((10.0, 5.0, 5.0), 1, 1),  # nothing to share out
        ((10.0, 5.0, 5.0), 2, 2),
        ((10.0, 1.0), 2, 1),  # two threads are faster on the long one
        ((1.0, 0.5), 2, 1),  # over before a process is made
        ((10.0, float("nan")), 2, 1),
        ((10.0, 5.0, 5.0, 5.0), 16, 4),  # of four threads each
        ((10.0,), 2, 1),
    ],
)
def test_work_is_shared_out_where_that_is_faster(seconds, threads, workers):
    assert crew.workers_for(seconds, threads) == workers


@pytest.mark.parametrize("case", ["one thread", "a GPU", "another system", "a daemon"])
def test_where_nothing_can_be_shared_out_nobody_is_asked_what_it_takes(case, monkeypatch):
    def seconds():
        raise AssertionError

    torch.set_num_threads(1 if case == "one thread" else 2)
    if case == "another system":
        monkeypatch.setattr(crew.sys, "platform", "darwin")
    if case == "a daemon":  # a worker of multiprocessing.Pool
        monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    device = torch.device("cuda" if case == "a GPU" else "cpu")
    assert crew.in_turn_or_beside([os.getpid] * 2, seconds, device) == [os.getpid()] * 2


def test_attackers_side_by_side_find_the_same(released, forked):
    ticks = []
    in_turn = run_suite(released, column(2), settings(), "the model")
    assert forked == []
    torch.set_num_threads(2)
    beside = run_suite(released, column(2), settings(tick=lambda text, steps: ticks.append(steps)), "the model")
    ((order, workers, threads),) = forked
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert (workers, threads) == (2, 1)
    assert [without_seconds(one) for one in beside.all] == [without_seconds(one) for one in in_turn.all]
    for one, other in zip(beside.all, in_turn.all, strict=True):
        assert torch.equal(one.said.audited, other.said.audited)
    assert sum(ticks) == len(SUITE) * 2


def test_an_attacker_of_unknown_cost_stays_in_this_process(released, forked):
    class Own(type(build_attacker("mlp"))):
        name = "own"
        fits = 0

        def seconds(self, people, shape, classes, epochs):
            return float("nan")

        def fit(self, train, validation, budget):
            self.fits += 1
            return super().fit(train, validation, budget)

    torch.set_num_threads(2)
    suite = [Own(), build_attacker("linear")]
    run_suite(released, column(2), dataclasses.replace(settings(), suite=suite), "the model")
    assert suite[0].fits == 1
    assert forked == []


def test_the_longest_is_begun_first(released, forked, monkeypatch):
    for name, seconds in {"mlp": 3.0, "linear": 1.0, "knn": 2.0}.items():
        monkeypatch.setattr(type(build_attacker(name)), "seconds", lambda *_, seconds=seconds: seconds)
    torch.set_num_threads(2)
    suite = [build_attacker(name) for name in ("linear", "knn", "mlp")]
    run_suite(released, column(2), dataclasses.replace(settings(), suite=suite), "the model")
    assert forked[0][0] == [2, 1, 0]


def test_a_killed_attacker_ends_the_audit(released, forked, monkeypatch):
    monkeypatch.setattr(type(build_attacker("knn")), "fit", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    torch.set_num_threads(2)
    with pytest.raises(TrainingError, match="killed by SIGKILL"):
        run_suite(released, column(2), settings(), "the model")


def test_a_whole_audit_side_by_side_says_what_it_says_in_turn(forked, monkeypatch):
    """Attackers, and probes of people and layers."""
    found = {}
    for workers in (1, 2):
        # As many processes as there are threads, which are one for all that is computed here.
        monkeypatch.setattr(crew, "torch", SimpleNamespace(get_num_threads=lambda workers=workers: workers))
        monkeypatch.setattr(crew, "workers_for", lambda seconds, threads: threads)
        config = AuditConfig(
            attackers=("mlp-small", "knn"), epochs=1, resamples=50, reconstruction=False,
            beyond=("training_people",), layers=("0", "3"),
        )  # fmt: skip
        result = audit(network(1), dataset(), "3", original=network(0), config=config, progress=False)
        found[workers] = timeless(result.to_dict())
    assert [len(order) for order, *_ in forked] == [2, 2, 4, 7]  # attackers of either model; training people; layers
    assert found[1] == found[2]
    assert found[1]["layers"]
    assert found[1]["training_people"]


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(one) for name, one in value.items() if name not in ("seconds", "phases", "created")}
    return [timeless(one) for one in value] if isinstance(value, list) else value
