"""local_parallel: the weights of ``local`` to the bit, and nothing left behind when a process dies."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from efface.config import MethodConfig
from efface.engine import Job, Part, fit
from efface.engine.checkpoints import Checkpoints
from efface.engine.parallel import executor
from efface.engine.parallel.parcels import (
    Parcel,
    PassedBatch,
    buffer_size,
    pack,
    random_state,
    set_random_state,
    unpack,
)
from efface.engine.parallel.ring import Ring
from efface.errors import DataError, TrainingError
from efface.models import split
from efface.objectives import ClassifierObjective, Terms
from parallel_helpers import FAST, assert_ended_with, assert_equal, few, train


def log_of(folder):
    return (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_weights_log_and_checkpoint_equal_those_of_local_to_the_bit(faces, tmp_path, blocks):
    """Dropout, restarts of heads, batch norms, the closed-form head, and a code whose rounding sets in, included."""
    found = {}
    for schedule in ("local", "local_parallel"):
        folder = tmp_path / schedule
        folder.mkdir()
        weights, history = train(faces, blocks, schedule, folder)
        found[schedule] = weights, history, Checkpoints(folder / "checkpoints", "unlearned", "f").load()
    assert_equal(found["local_parallel"][0], found["local"][0])
    assert log_of(tmp_path / "local") == log_of(tmp_path / "local_parallel")
    assert found["local"][1].steps == found["local_parallel"][1].steps == 12
    one, other = (found[schedule][2] for schedule in ("local", "local_parallel"))
    assert one["step"] == other["step"]
    assert_equal(other["stages"], one["stages"])


def test_numbers_behind_classes_reach_every_block(faces):
    """HSIC reads them in the first block as in the second: its weights are those of `local`, and depend on them."""
    config, method = FAST.model_copy(update={"epochs": 1}), MethodConfig(name="hsic", variant="paper")
    told = replace(faces, numbers={"hat": faces.labels["hat"] + np.arange(len(faces)) % 7 / 7})
    local, processes = (train(told, 3, s, config=config, method=method)[0] for s in ("local", "local_parallel"))
    assert_equal(processes, local)
    without, _ = train(faces, 3, "local", config=config, method=method)
    assert not torch.equal(without["middle.0.weight"], local["middle.0.weight"])


def test_more_threads_than_one_survive_the_fork(faces):
    """OpenMP's threads of the parent are gone in a child: it must not wait for them."""
    torch.set_num_threads(2)
    torch.randn(300, 300) @ torch.randn(300, 300)
    config = FAST.model_copy(update={"threads": 2, "epochs": 1})
    weights, _ = train(faces, 2, "local_parallel", config=config)
    assert all(bool(torch.isfinite(value.float()).all()) for value in weights.values())


class Slow(ClassifierObjective):
    """Takes its time, so that a test can kill in the middle; or fails at a step."""

    def __init__(self, seconds=0.0, error=None, at=0):
        super().__init__()
        self.seconds, self.error, self.at, self.steps = seconds, error, at, 0

    def forward(self, features, batch, progress):
        self.steps += 1
        time.sleep(self.seconds)
        terms = super().forward(features, batch, progress)
        if self.error is not None and self.steps == self.at:
            raise self.error
        return terms


class Mean(torch.nn.Module):
    """A loss of the features alone."""

    def forward(self, features, batch, progress):
        return Terms(features.square().mean(), {})


def fit_slowly(net, faces, folder, last, **changes):
    cut = split(net, ["low", "middle"])
    parts = [Part(cut.blocks[0], Mean()), Part(cut.blocks[1], Mean()), Part(cut.blocks[2], last)]
    config = FAST.model_copy(update={"schedule": "local_parallel", "checkpoint_every": 2, "epochs": 20, **changes})
    return fit(parts, few(faces), config, Job(progress=False, seed=3, folder=folder, fingerprint="f"))


def shared_memory():
    return set(Path("/dev/shm").iterdir())


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_worker_ends_the_run_and_leaves_nothing(net, faces, tmp_path, victim):
    before, killed = shared_memory(), []

    def kill():
        path = tmp_path / "checkpoints" / "unlearned.pt"
        while not path.exists():
            time.sleep(0.02)
        children = {process.name: process.pid for process in multiprocessing.active_children()}
        killed.extend(children.values())
        os.kill(children[f"efface-block-{victim}"], signal.SIGKILL)
        killed.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(TrainingError, match=rf"block {victim + 1} of 3 was killed by SIGKILL.*checkpoint is intact"):
        fit_slowly(net, faces, tmp_path, Slow(0.05))
    took = time.monotonic() - killed.pop()
    thread.join()
    assert took < 5
    assert multiprocessing.active_children() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in killed)
    assert shared_memory() <= before
    assert Checkpoints(tmp_path / "checkpoints", "unlearned", "f").load()["step"] >= 2


def test_a_run_goes_on_after_its_worker_was_killed(faces, tmp_path):
    """The resumed run ends with the weights of a whole one, and its log."""
    config = FAST.model_copy(update={"checkpoint_every": 4})
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, _ = train(faces, 3, "local_parallel", tmp_path / "whole", config=config)

    def kill():
        path = tmp_path / "killed" / "checkpoints" / "unlearned.pt"
        while not path.exists():
            time.sleep(0.002)
        next(p for p in multiprocessing.active_children() if p.name == "efface-block-1").kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(TrainingError, match="block 2 of 3 was killed"):
        train(faces, 3, "local_parallel", tmp_path / "killed", config=config)
    thread.join()
    resumed, _ = train(faces, 3, "local_parallel", tmp_path / "killed", resume=True, config=config)
    assert_equal(resumed, whole)
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_children_end_when_their_parent_is_killed(net, faces, tmp_path):
    context = multiprocessing.get_context("fork")

    def parent():
        fit_slowly(net, faces, tmp_path, Slow(0.05))

    process = context.Process(target=parent)
    process.start()
    path, deadline = tmp_path / "checkpoints" / "unlearned.pt", time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 3
    assert_ended_with(process, children)


def test_an_error_in_a_worker_is_the_run_s_error(net, faces, tmp_path):
    with pytest.raises(TrainingError, match=r"block 3 of 3 failed: ZeroDivisionError: oh no") as caught:
        fit_slowly(net, faces, tmp_path, Slow(error=ZeroDivisionError("oh no"), at=4))
    assert "in forward" in str(caught.value.__cause__)
    with pytest.raises(DataError, match=r"^bad rows$"):
        fit_slowly(net, faces, tmp_path, Slow(error=DataError("bad rows"), at=1))
    assert multiprocessing.active_children() == []


def test_a_loss_that_is_not_finite_stops_all_and_spares_the_checkpoint(net, faces, tmp_path):
    class Exploding(ClassifierObjective):
        steps = 0

        def forward(self, features, batch, progress):
            self.steps += 1
            terms = super().forward(features, batch, progress)
            scale = float("nan") if self.steps > 8 else 1.0
            return Terms(terms.total * scale, {"loss/classifier": terms.total.detach() * scale})

    with pytest.raises(TrainingError, match=r"stopped at step 10 of .*loss/classifier.* not finite"):
        fit_slowly(net, faces, tmp_path, Exploding())
    state = Checkpoints(tmp_path / "checkpoints", "unlearned", "f").load()
    assert state["step"] == 8
    assert multiprocessing.active_children() == []


def test_evaluation_sees_the_weights_at_the_end_of_its_epoch(net, faces, tmp_path):
    """Blocks that run ahead must not be seen: the figures are those of ``local``."""
    import copy

    seen = {}
    for schedule in ("local", "local_parallel"):
        model = copy.deepcopy(net)
        cut = split(model, "low")
        parts = [Part(cut.blocks[0], Mean()), Part(cut.blocks[1], ClassifierObjective())]
        config = FAST.model_copy(update={"schedule": schedule, "epochs": 3})

        def total(fabric, model=model):
            return {"total": float(sum(p.detach().double().abs().sum() for p in model.parameters()))}

        history = fit(parts, few(faces), config, Job(progress=False, seed=3), total)
        seen[schedule] = [json.dumps(line["metrics"]) for line in history.lines if line["split"] == "validation"]
    assert len(seen["local"]) == 3
    assert seen["local"] == seen["local_parallel"]


def test_one_block_needs_no_other_process(net, faces):
    config = FAST.model_copy(update={"schedule": "local_parallel", "epochs": 1})
    history = fit([Part(net, ClassifierObjective())], few(faces), config, Job(progress=False))
    assert history.steps == 6


def batch_of(n=4):
    pixels = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8)
    numbers = {"a": torch.linspace(0.5, 9.5, n)}
    return PassedBatch(pixels, torch.arange(n), {"a": torch.ones(n, dtype=torch.long)}, numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "tokens", "vector"])
def test_a_parcel_comes_out_as_it_went_in(dtype, layout):
    batch = batch_of()
    signal = {
        "channels_last": torch.randn(4, 5, 6, 7).contiguous(memory_format=torch.channels_last),
        "contiguous": torch.randn(4, 5, 6, 7),
        "tokens": torch.randn(4, 9, 5).transpose(0, 1).contiguous().transpose(0, 1),
        "vector": torch.randn(4, 11),
    }[layout].to(dtype)
    buffer = torch.empty(buffer_size(signal, batch, 4), dtype=torch.uint8)
    pack(Parcel(signal, batch, b"state"), buffer)
    found = unpack(buffer)
    assert torch.equal(found.signal, signal)
    assert found.signal.stride() == signal.stride()
    assert found.signal.dtype == dtype
    assert found.signal.data_ptr() % 64 == buffer.data_ptr() % 64
    assert torch.equal(found.batch.pixels, batch.pixels)
    assert torch.equal(found.batch.images, batch.images)
    assert torch.equal(found.batch.attributes["a"], batch.attributes["a"])
    assert torch.equal(found.batch.numbers["a"], batch.numbers["a"])
    assert found.randomness == b"state"


def test_features_that_show_the_same_numbers_at_every_position_come_out_as_numbers_of_their_own():
    signal, batch = torch.randn(4, 5, 1, 1).expand(4, 5, 6, 7), batch_of()
    buffer = torch.empty(buffer_size(signal, batch, 4), dtype=torch.uint8)
    pack(Parcel(signal, batch), buffer)
    assert torch.equal(unpack(buffer).signal, signal)


def test_features_larger_than_the_dry_run_s_are_an_error():
    buffer = torch.empty(buffer_size(torch.zeros(4, 3), batch_of(), 4), dtype=torch.uint8)
    with pytest.raises(TrainingError, match=r"gave \(4, 5000\) torch.float32, which is more than"):
        pack(Parcel(torch.zeros(4, 5000), batch_of()), buffer)


def test_random_numbers_go_on_where_they_were():
    import random

    import numpy as np

    state = random_state()
    first = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    set_random_state(state)
    again = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(first[0], again[0])
    assert (first[1] == again[1]).all()
    assert first[2] == again[2]


def test_a_ring_holds_two_parcels_and_keeps_their_order():
    context = multiprocessing.get_context("fork")
    ring = Ring(context, buffer_size(torch.zeros(4, 3), batch_of(), 4))
    put = []

    def produce():
        for number in range(5):
            ring.put(Parcel(torch.full((4, 3), float(number)), batch_of()))
            put.append(number)

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.2)
    assert put == [0, 1]
    for number in range(5):
        parcel = ring.get()
        time.sleep(0.02)  # the producer must not overwrite what is read
        assert float(parcel.signal.mean()) == number
        ring.release()
    thread.join()


def test_the_executor_follows_schedule_device_and_torchrun(monkeypatch):
    def chosen(schedule, device="cpu", blocks=2):
        fabric = Mock(spec=Fabric, device=torch.device(device))
        return executor(FAST.model_copy(update={"schedule": schedule}), fabric, blocks).__module__

    assert chosen("local") == chosen("end_to_end") == chosen("local_parallel", blocks=1) == "efface.engine.loop"
    assert chosen("local_parallel") == "efface.engine.parallel.processes"
    assert chosen("local_parallel", "cuda") == "efface.engine.parallel.streams"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert chosen("local_parallel") == "efface.engine.parallel.ranks"
