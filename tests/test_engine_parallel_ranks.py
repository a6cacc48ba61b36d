"""torch.distributed: a rank per block gives the weights of ``local`` to the bit; replicas average to a larger batch."""

import functools
import importlib
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import traceback

import pytest
import torch
from torch import nn

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.engine import Job, Part, fit
from efface.engine.devices import data_shard, make_fabric, under_torchrun
from efface.engine.parallel import streams
from efface.models import split
from efface.objectives import ClassifierObjective, Terms
from parallel_helpers import FAST, assert_equal, train

SAVING = FAST.model_copy(update={"checkpoint_every": 5})


@pytest.fixture(scope="module")
def local(faces, tmp_path_factory):
    """Weights, log and last checkpoint of ``local``, for so many blocks."""

    @functools.cache
    def trained(blocks):
        folder = tmp_path_factory.mktemp("local")
        weights, _ = train(faces, blocks, "local", folder, config=SAVING)
        state = torch.load(folder / "checkpoints" / "unlearned.pt", weights_only=True)
        return weights, (folder / "metrics.jsonl").read_text(), state

    return trained


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_rank(function, rank, world, port, folder):
    """What torchrun would start."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    try:
        torch.save(function(rank), folder / f"rank{rank}.pt")
    except Exception as error:
        (folder / f"rank{rank}.txt").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)


def start_ranks(world, function, folder):
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [context.Process(target=one_rank, args=(function, rank, world, port, folder)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def run_ranks(world, function, folder):
    """Run a function on each of so many ranks; return what each gave, or its error's text."""
    for process in start_ranks(world, function, folder):
        process.join(120)
        process.kill()
    errors = sorted(folder.glob("rank*.txt"))
    if errors:
        return [path.read_text() for path in errors]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("blocks", [2, 3])
def test_a_rank_per_block_gives_the_weights_of_local_to_the_bit(faces, local, tmp_path, blocks):
    """On every rank; log and checkpoint are written by the first, and a run goes on from them."""
    wanted, log, checkpoint = local(blocks)
    folder = tmp_path / "ranks"
    folder.mkdir()

    def work(rank):
        return train(faces, blocks, "local_parallel", folder, config=SAVING)[0]

    for weights in run_ranks(blocks, work, folder):
        assert_equal(weights, wanted)
    assert (folder / "metrics.jsonl").read_text() == log
    state = torch.load(folder / "checkpoints" / "unlearned.pt", weights_only=True)
    assert (state["step"], len(state["stages"])) == (12, blocks)
    assert_equal(state["stages"], checkpoint["stages"])


def test_a_rank_that_dies_ends_the_others_and_the_run_goes_on_from_its_checkpoint(faces, local, tmp_path):
    wanted, log, _ = local(2)
    folder = tmp_path / "ranks"
    folder.mkdir()

    def dying(rank):
        calls, forward = [], ClassifierObjective.forward

        def last(self, features, batch, progress):
            calls.append(1)
            if len(calls) == 8:
                os.kill(os.getpid(), 9)
            return forward(self, features, batch, progress)

        if rank == 1:
            ClassifierObjective.forward = last
        return train(faces, 2, "local_parallel", folder, config=SAVING)

    processes = start_ranks(2, dying, tmp_path)
    processes[1].join(60)
    died = time.monotonic()
    processes[0].join(20)
    assert time.monotonic() - died < 10
    assert processes[1].exitcode == -9
    text = (tmp_path / "rank0.txt").read_text()
    assert text.startswith("TrainingError: Rank 0 (block 1 of 2) stopped: ")
    assert "The last checkpoint is intact" in text
    assert torch.load(folder / "checkpoints" / "unlearned.pt", weights_only=True)["step"] == 6

    def resumed(rank):
        return train(faces, 2, "local_parallel", folder, resume=True, config=SAVING)[0]

    (tmp_path / "rank0.txt").unlink()
    for weights in run_ranks(2, resumed, tmp_path):
        assert_equal(weights, wanted)
    assert (folder / "metrics.jsonl").read_text() == log


class Plain(nn.Module):
    """No batch norm and no dropout: a batch may be cut without changing what is computed."""

    def __init__(self):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.high(self.low(x)).mean((2, 3)))


class Mean(nn.Module):
    """A loss of the features, with parameters that are used and others that are not."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Conv2d(8, 2, 1), nn.Linear(3, 3)

    def forward(self, features, batch, progress):
        loss = nn.functional.cross_entropy(self.used(features).mean((2, 3)), batch.attributes["glasses"])
        return Terms(loss, {"loss/mean": loss.detach()})


def fit_plain(faces, schedule, batch_size):
    torch.manual_seed(0)
    model, mean = Plain(), Mean()
    cut = split(model, "low")
    config = EngineConfig(
        schedule=schedule, epochs=2, batch_size=batch_size, optimizer="sgd", lr=0.1, precision="32-true", threads=1,
        device="cpu", grad_clip=1.0,
    )  # fmt: skip
    parts = [Part(cut.blocks[0], mean), Part(cut.blocks[1], ClassifierObjective())]
    fit(parts, faces, config, Job(progress=False, seed=3))
    return model.state_dict()


def test_data_parallel_processes_equal_one_with_a_batch_as_large_as_theirs_together(faces, tmp_path):
    """Two processes of ``local``; and two blocks of two replicas each, which equal those to the bit."""
    (tmp_path / "two").mkdir()
    (tmp_path / "four").mkdir()
    alone = fit_plain(faces, "local", 128)
    two = run_ranks(2, lambda rank: fit_plain(faces, "local", 64), tmp_path / "two")
    four = run_ranks(4, lambda rank: fit_plain(faces, "local_parallel", 64), tmp_path / "four")
    torch.manual_seed(0)
    start = Plain().state_dict()
    for name, value in alone.items():
        assert (start[name] - value).abs().max() > 1e-3, name
        torch.testing.assert_close(two[0][name], value, rtol=1e-4, atol=1e-5)
    assert_equal(two[1], two[0])
    for weights in four:
        assert_equal(weights, two[0])


def test_shards_are_the_parts_of_the_larger_batch_augmentation_included(faces):
    settings = {"augment": (True, 4), "seed": 5}
    whole = Batches(faces, "train", 64, **settings)
    parts = [Batches(faces, "train", 32, shard=(number, 2), **settings) for number in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for batch, one, other in zip(*(batches.epoch(1, start=2) for batches in (whole, *parts)), strict=True):
        assert torch.equal(batch.pixels, torch.cat([one.pixels, other.pixels]))
        assert torch.equal(batch.target, torch.cat([one.target, other.target]))


def test_ranks_that_do_not_fit_are_refused(faces, tmp_path):
    def three(rank):
        return train(faces, 2, "local_parallel")

    for text in run_ranks(3, three, tmp_path):
        assert text.startswith("ConfigError: Expected `--nproc-per-node` to be a multiple of the 2 blocks")


def test_ranks_that_resume_from_different_steps_are_refused(faces, tmp_path):
    (tmp_path / "first").mkdir()
    train(faces, 2, "local_parallel", tmp_path / "first", config=FAST.model_copy(update={"epochs": 1}))
    (tmp_path / "other").mkdir()

    def apart(rank):
        return train(faces, 2, "local_parallel", tmp_path / ("first", "other")[rank], resume=True)

    for text in run_ranks(2, apart, tmp_path):
        assert text.startswith("CheckpointError: The ranks resume from steps [6, 0]")


@pytest.mark.parametrize("blocks", [2, 3])
def test_streams_give_the_weights_of_local(faces, local, tmp_path, blocks, monkeypatch):
    """Log and checkpoint too. Off the GPU the lanes have no streams: what remains is the order of all that is done."""
    wanted, log, checkpoint = local(blocks)
    monkeypatch.setattr(importlib.import_module("efface.engine.fit"), "executor", lambda *_: streams.run)
    found, _ = train(faces, blocks, "local_parallel", tmp_path, config=SAVING)
    assert_equal(found, wanted)
    assert (tmp_path / "metrics.jsonl").read_text() == log
    state = torch.load(tmp_path / "checkpoints" / "unlearned.pt", weights_only=True)
    assert (state["step"], len(state["stages"])) == (12, blocks)
    assert_equal(state["stages"], checkpoint["stages"])


SCRIPT = """
import os, torch, efface
from efface.config import MethodConfig
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.low, self.pool = nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.pool(self.low(x)).flatten(1))

data = efface.load_dataset("toyfaces", target="smiling", attributes="glasses", size=32, n=200, progress=False)
torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))  # the first one's weights count
engine = efface.EngineConfig(epochs=1, batch_size=32, device="cpu", devices=2, threads=1, precision="32-true")
method = efface.MethodConfig(head_width=8, decoder_width=8, heads=("pooled",))
found = efface.unlearn(Net(), data, at="low", method=method, engine=engine, progress=False)
torch.save(found.model.state_dict(), f"rank{os.environ.get('LOCAL_RANK', 0)}.pt")
"""


def test_a_script_that_asks_for_two_devices_is_started_twice_and_both_end_with_the_same_weights(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_equal(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)))


def test_who_is_under_torchrun_and_which_shard_is_whose(monkeypatch):
    fabric = make_fabric(FAST)
    parallel = FAST.model_copy(update={"schedule": "local_parallel"})
    assert not under_torchrun()
    assert data_shard(parallel, fabric, 2) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    shards = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        shards.append(data_shard(parallel, fabric, 2))
    assert under_torchrun()
    assert shards == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert data_shard(parallel, fabric, 1) == (0, 1)


def test_replicas_end_with_the_running_moments_of_the_first(faces, tmp_path):
    """Each sees its own half of the batches; what is written, and what all end with, are the first's."""

    def work(rank):
        return train(faces, 2, "local_parallel", config=FAST.model_copy(update={"epochs": 1, "batch_size": 16}))[0]

    first, *others = run_ranks(4, work, tmp_path)
    assert any("running_mean" in name for name in first)
    for weights in others:
        assert_equal(weights, first)
