"""The engine: gradients stop at the boundary, runs resume to the bit, and nothing not finite goes on."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batches
from efface.engine import Job, Part, fit
from efface.engine.checkpoints import Checkpoints
from efface.engine.devices import make_fabric
from efface.engine.log import MetricsLog
from efface.engine.optim import build_optimizer, learning_rate
from efface.engine.schedules import SCHEDULES
from efface.engine.seeds import derive
from efface.engine.stages import Stage
from efface.errors import CheckpointError, TrainingError
from efface.methods import Detachment
from efface.models import split
from efface.objectives import ClassifierObjective, SilentObjective, Terms

FAST = EngineConfig(epochs=2, batch_size=64, precision="32-true", threads=1, log_every=2, device="cpu")
SMALL = MethodConfig(head_width=16, decoder_width=16, heads=("conv", "pooled"), restart_every=1)
QUIET = Job(progress=False, seed=3)


class Mean(nn.Module):
    """A loss of the features alone."""

    def forward(self, features, batch, progress):
        return Terms(features.square().mean(), {})


def stages_of(net, config):
    cut = split(net, "low")
    fabric = make_fabric(config)
    parts = [Part(cut.blocks[0], Mean()), Part(cut.blocks[1], ClassifierObjective())]
    return fabric, [Stage(part, fabric, config) for part in parts]


def test_local_lets_no_gradient_cross_the_boundary(net, faces):
    """The extractor moves exactly as it does without any classifier."""
    import copy

    alone = copy.deepcopy(net)
    config = FAST.model_copy(update={"optimizer": "sgd", "grad_clip": None})
    batch = next(iter(Batches(faces, "train", 64).sequential()))
    fabric, stages = stages_of(net, config)
    SCHEDULES["local"](fabric, stages, batch, 0.0)
    fabric, others = stages_of(alone, config)
    SCHEDULES["local"](fabric, others[:1], batch, 0.0)
    for (name, p), q in zip(net.low.named_parameters(), alone.low.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_end_to_end_lets_it_cross(net, faces):
    config = FAST.model_copy(update={"grad_clip": None})
    batch = next(iter(Batches(faces, "train", 64).sequential()))
    cut = split(net, "low")
    fabric = make_fabric(config)
    parts = [Part(cut.blocks[0], SilentObjective()), Part(cut.blocks[1], ClassifierObjective())]
    stages = [Stage(part, fabric, config) for part in parts]
    before = net.low[0].weight.clone()
    SCHEDULES["end_to_end"](fabric, stages, batch, 0.0)
    assert not torch.equal(before, net.low[0].weight)
    SCHEDULES["local"](fabric, stages, batch, 0.0)  # a silent block has nothing to learn from
    after = net.low[0].weight.clone()
    SCHEDULES["local"](fabric, stages, batch, 0.0)
    assert torch.equal(after, net.low[0].weight)


def test_end_to_end_equals_a_plain_training_loop(net, faces):
    """Oracle: the same steps written out by hand."""
    import copy

    plain = copy.deepcopy(net).to(memory_format=torch.channels_last)
    config = FAST.model_copy(update={"schedule": "end_to_end", "epochs": 1, "grad_clip": None, "lr_warmup": 0.0})
    fit([Part(net, ClassifierObjective())], faces, config, QUIET)
    batches = Batches(faces, "train", 64, augment=(True, 4), seed=derive(3, "unlearned", "batches"))
    optimizer = build_optimizer([plain], config, config.lr)
    plain.train()
    for step, batch in enumerate(batches.epoch(0)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), config.lr, 0.0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(batch.images), batch.target).backward()
        optimizer.step()
    for (name, p), q in zip(net.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("kill_at", [3, 7, 11])
@pytest.mark.parametrize("schedule", ["local", "end_to_end"])
def test_resume_after_a_kill_is_equal_to_the_bit(faces, tmp_path, monkeypatch, kill_at, schedule):
    from conftest import Net

    config = FAST.model_copy(update={"epochs": 2, "checkpoint_every": 4, "schedule": schedule})

    def train(folder, resume=False):
        torch.manual_seed(0)
        model = Net(dropout=0.3)
        job = replace(QUIET, folder=folder, fingerprint="f", resume=resume)
        Detachment().fit(model, faces, ["low"], SMALL, config, job)
        return model.state_dict(), (folder / "metrics.jsonl").read_text()

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, log = train(tmp_path / "whole")
    step = SCHEDULES[schedule]
    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == kill_at:
            raise Killed
        return step(*arguments)

    monkeypatch.setitem(SCHEDULES, schedule, dying)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    monkeypatch.setitem(SCHEDULES, schedule, step)
    resumed, resumed_log = train(tmp_path / "killed", resume=True)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert log == resumed_log


def test_a_loss_that_is_not_finite_stops_and_spares_the_checkpoint(net, faces, tmp_path):
    class Exploding(ClassifierObjective):
        steps = 0

        def forward(self, features, batch, progress):
            self.steps += 1
            terms = super().forward(features, batch, progress)
            scale = float("nan") if self.steps > 8 else 1.0
            return Terms(terms.total * scale, {"loss/classifier": terms.total.detach() * scale})

    config = FAST.model_copy(update={"checkpoint_every": 2, "epochs": 3})
    job = replace(QUIET, folder=tmp_path)
    with pytest.raises(TrainingError, match=r"loss/classifier.* not finite. Try a lower `engine.lr`") as caught:
        fit([Part(net, Exploding())], faces, config, job)
    assert "stopped at step 10" in str(caught.value)
    state = Checkpoints(tmp_path / "checkpoints", "unlearned", "").load()
    assert state["step"] == 8
    weights = state["stages"][0]["modules"][0]
    assert all(bool(torch.isfinite(value.float()).all()) for value in weights.values())


def test_an_infinite_gradient_of_a_finite_loss_is_seen(net, faces):
    class Steep(ClassifierObjective):
        def forward(self, features, batch, progress):
            # sqrt has an infinite slope at 0 while its value is finite.
            total = (features[:, 0] * 0).square().sum().sqrt() + features.sum() * 0
            return Terms(total, {"loss/classifier": total.detach()})

    with pytest.raises(TrainingError, match="norm/0"):
        fit([Part(net, Steep())], faces, FAST, QUIET)


def test_a_batch_larger_than_the_split_is_an_error(net, faces):
    with pytest.raises(TrainingError, match=r"Lower `engine.batch_size`"):
        fit([Part(net, ClassifierObjective())], faces, FAST.model_copy(update={"batch_size": 4000}), QUIET)


def test_checkpoints_refuse_other_settings_and_damage(tmp_path):
    checkpoints = Checkpoints(tmp_path, "original", "one")
    assert checkpoints.load() is None
    checkpoints.save(5, [{"modules": [], "optimizers": []}], 1.0)
    assert checkpoints.load()["step"] == 5
    with pytest.raises(CheckpointError, match=r"made with other settings \(one against two\)"):
        Checkpoints(tmp_path, "original", "two").load()
    assert checkpoints.path is not None
    checkpoints.path.write_bytes(checkpoints.path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"Cannot read the checkpoint 'original.pt'"):
        checkpoints.load()


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "original", "one")
    checkpoints.save(5, [], 1.0)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(6, [], 2.0)
    assert checkpoints.load()["step"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["original.pt"]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    other, log = MetricsLog(path, "original"), MetricsLog(path, "unlearned")
    other.write(9, 1.0, "train", {"a": 1.0})
    for step in (1, 2, 3):
        log.write(step, step / 3, "train", {"a": 0.5})
    path.write_text(path.read_text() + '{"model": "unlea')  # what a kill leaves
    log.rewind(2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["model"], line["step"]) for line in lines] == [("original", 9), ("unlearned", 1), ("unlearned", 2)]


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_the_adversary_learns_so_many_times_for_each_step_of_its_block(net, faces, inner_steps):
    """By plain descent on a constant gradient: a step is as long as the rate."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1))

        def forward(self, features, batch):
            assert not features.requires_grad
            return Terms(self.place.sum(), {})

    fabric, adversary = make_fabric(FAST), Constant()
    cut = split(net, "low")
    part = Part(cut.blocks[0], Mean(), adversary, 0.25, inner_steps)
    stage = Stage(part, fabric, FAST)
    stage.adversary_optimizer = torch.optim.SGD(adversary.parameters(), lr=0.25)
    batch = next(iter(Batches(faces, "train", 32, seed=1).epoch(0)))
    SCHEDULES["local"](fabric, [stage, Stage(Part(cut.blocks[1], ClassifierObjective()), fabric, FAST)], batch, 0.0)
    assert adversary.place.item() == -0.25 * inner_steps


def test_norms_and_biases_get_no_weight_decay(net):
    optimizer = build_optimizer([net], FAST, 1e-3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        assert (decay[id(parameter)] > 0) == (parameter.ndim > 1), name


def test_precision_auto_is_a_precision_fabric_knows():
    fabric = make_fabric(EngineConfig(threads=1, device="cpu"))
    with fabric.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype in (torch.bfloat16, torch.float32)


def test_seeds_differ_by_use():
    seeds = {derive(s, use, n) for s in range(3) for use in ("a", "b") for n in range(5)}
    assert len(seeds) == 30
