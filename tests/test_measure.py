"""Where to cut: what is measured agrees with what can be counted, and proposals are the best of all there are."""

import copy
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from efface.config import Config, MethodConfig
from efface.engine import cuts
from efface.errors import ConfigError, CutError, TrainingError
from efface.experiments import runner
from efface.experiments.compare import compare
from efface.experiments.sweep import sweep
from efface.experiments.sweep_plan import Sweep
from efface.experiments.target import run_to_target
from efface.methods import unlearn
from efface.methods.detachment import Detachment
from efface.models import build, measure
from efface.models.measure import CutCosts, LayerCost, auto_goal, measure_cuts
from parallel_helpers import FAST


class Takes(nn.Module):
    """Passes its input on after a while, and its gradient after another, on a clock that nothing else moves."""

    def __init__(self, clock, forward_s, backward_s):
        super().__init__()
        self.clock, self.seconds = clock, (forward_s, backward_s)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.clock.append(self.clock[-1] + self.seconds[0])
        y = x * self.scale
        z = y * 1
        if y.requires_grad:
            y.register_hook(lambda gradient: self.clock.append(self.clock[-1] + self.seconds[1]))
        return z


class Clock(list):
    """The same clock in every copy of a model."""

    def __deepcopy__(self, memo):
        return self


def test_times_are_those_of_each_layer_forward_and_backward(monkeypatch):
    clock = Clock([0.0])
    monkeypatch.setattr(measure, "_now", lambda images: clock[-1])
    model = nn.Sequential(Takes(clock, 3.0, 1.0), Takes(clock, 1.0, 5.0), Takes(clock, 2.0, 2.0))
    costs = measure_cuts(model, torch.randn(2, 3), repeats=2)
    assert [layer.name for layer in costs.layers] == ["0", "1"]
    assert [layer.forward_s for layer in costs.layers] == pytest.approx([3, 4])
    assert [layer.backward_s for layer in costs.layers] == pytest.approx([1, 6])
    assert (costs.whole.forward_s, costs.whole.backward_s) == pytest.approx((6, 8))
    assert costs.propose("speed").at == ("0",)  # 4 against 10; cut after 1 it is 10 against 4: as good, and later
    assert costs.propose("speed", auxiliary={"0": 7.0}).at == ("1",)


def test_kept_bytes_are_those_that_autograd_keeps():
    """Sigmoid keeps its output; a linear layer its input. The images are nobody's activation."""
    model = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 30), nn.Sigmoid(), nn.Linear(30, 5))
    costs = measure_cuts(model, torch.randn(8, 10), repeats=1)
    kept = {layer.name: layer.kept_bytes for layer in costs.layers}
    assert kept == {"0": 0, "1": 8 * 20 * 4, "2": 8 * 20 * 4, "3": 8 * 50 * 4}
    assert costs.whole.kept_bytes == 8 * 50 * 4
    assert [layer.feature_bytes for layer in costs.layers] == [8 * n * 4 for n in (20, 20, 30, 30)]


def test_bfloat16_halves_what_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3))
    images = torch.randn(4, 3, 12, 12)
    whole = measure_cuts(model, images, repeats=1).layers[1]
    half = measure_cuts(model, images, repeats=1, bfloat16=True).layers[1]
    assert half.feature_bytes * 2 == whole.feature_bytes
    assert half.kept_bytes < whole.kept_bytes


def test_measuring_leaves_no_trace():
    model = build("resnet18", 2, 32, width=8).eval()
    images = torch.randn(4, 3, 32, 32)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    costs = measure_cuts(model, images, repeats=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    times = [layer.seconds for layer in costs.layers]
    kept = [layer.kept_bytes for layer in costs.layers]
    assert kept == sorted(kept)
    assert 0 < times[0] < times[-1] < costs.whole.seconds


STEP = st.tuples(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 1000), st.integers(0, 500))


def costs_of(steps):
    """Costs of layers, each of which adds so many seconds and bytes, and whose features are so large."""
    layers, total = [], (0.0, 0.0, 0)
    for number, (forward, backward, kept, features) in enumerate(steps):
        total = total[0] + forward, total[1] + backward, total[2] + kept
        layers.append(LayerCost(str(number), (1,), *total, feature_bytes=features))
    return CutCosts(tuple(layers[:-1]), layers[-1])


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=7), st.integers(2, 3))
def test_a_proposal_is_the_best_of_all_cuts(steps, blocks):
    """Oracle: every cut, its blocks summed up by hand."""
    costs = costs_of(steps)
    slowest, largest = {}, {}
    for ends_of_blocks in combinations(costs.layers, blocks - 1):
        ends = [None, *ends_of_blocks, costs.whole]
        seconds, kept = [], []
        for before, after in pairwise(ends):
            seconds.append(after.seconds - (before.seconds if before else 0))
            kept.append(after.kept_bytes - (before.kept_bytes - before.feature_bytes if before else 0))
        names = tuple(cut.name for cut in ends_of_blocks)
        slowest[names], largest[names] = max(seconds), max(kept)
    speed, memory, both = (costs.propose(goal, blocks) for goal in ("speed", "memory", "balance"))
    assert speed.slowest_s == pytest.approx(min(slowest.values()))
    assert memory.peak_bytes == min(largest.values())
    score = {at: slowest[at] / min(slowest.values()) + largest[at] / min(largest.values()) for at in slowest}
    assert score[both.at] == pytest.approx(min(score.values()))
    assert 1 <= speed.speedup <= blocks + 1e-9
    assert memory.saving == pytest.approx(1 - memory.peak_bytes / costs.whole.kept_bytes)


def test_a_layer_within_another_is_not_proposed_beside_it():
    """The best two would be a.1 and a, which can't both be cut at."""
    layers = [
        LayerCost(name, (1,), t, t, int(t), 0) for name, t in (("a.0", 1.0), ("a.1", 3.0), ("a", 6.0), ("b", 7.0))
    ]
    costs = CutCosts(tuple(layers), LayerCost("", (1,), 9.0, 9.0, 9, 0))
    assert costs.propose("speed", 3).at == ("a.1", "b")
    assert costs.propose("memory", 3).at == ("a.1", "b")


def test_errors_name_the_goals_and_the_layers():
    costs = CutCosts((LayerCost("a", (1,), 1.0, 1.0, 5, 1),), LayerCost("", (), 2.0, 2.0, 9, 0))
    with pytest.raises(ConfigError, match=r"auto:memory or auto:balance, but got 'auto:size'"):
        costs.propose("size")
    with pytest.raises(CutError, match="has 1 layers to cut at; 3 blocks need 2"):
        costs.propose("speed", blocks=3)
    with pytest.raises(ConfigError, match=r"Unknown goal 'memmory' in `model.at`. Did you mean 'memory'"):
        auto_goal("auto:memmory")
    with pytest.raises(CutError, match="no layer at which it can be cut"):
        measure_cuts(nn.Linear(3, 2), torch.randn(2, 3))


def test_a_head_is_timed_down_to_its_features_and_left_alone(monkeypatch):
    clock = Clock([0.0])
    monkeypatch.setattr(measure, "_now", lambda images: clock[-1])
    head = nn.Sequential(Takes(clock, 3.0, 1.0), nn.BatchNorm1d(4))
    before = copy.deepcopy(head.state_dict())
    assert measure.measure_module(head, torch.randn(6, 4)) == pytest.approx(4.0)
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def by_number_of_channels(model, images, *, bfloat16=False, repeats=5):
    """Costs of Net's layers without a clock: the first is the slowest, and keeps least."""
    del images, repeats
    assert not bfloat16
    layers = LayerCost("low", (4, 8, 16, 16), 2.0, 2.0, 10, 5), LayerCost("middle", (4, 12, 8, 8), 3.0, 2.0, 100, 5)
    return CutCosts(layers, LayerCost("", (), 5.0, 4.0, 120, 0))


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(cuts, "measure_cuts", by_number_of_channels)
    monkeypatch.setattr(cuts, "measure_module", lambda head, features, bfloat16: 0.0)


def test_named_layers_are_taken_as_they_are_and_auto_is_measured(net, faces, known):
    assert cuts.settle_cut(net, "low", faces, FAST) == ["low"]
    assert cuts.settle_cut(net, ("low", "middle"), faces, FAST) == ["low", "middle"]
    assert cuts.settle_cut(net, "auto", faces, FAST) == ["low"]  # 4 and 5 s; after middle 5 and 4
    assert cuts.settle_cut(net, ["auto:memory"], faces, FAST) == ["middle"]  # 100 bytes and 25; after low 10 and 115


def test_heads_count_as_they_are_trained(net, faces, known, monkeypatch):
    monkeypatch.setattr(cuts, "measure_module", lambda head, features, bfloat16: 7.0 if features.shape[1] == 8 else 0.0)
    assert cuts.settle_cut(net, "auto:speed", faces, FAST) == ["middle"]


def test_auto_measures_for_real_with_the_batch_that_is_trained(net, faces, monkeypatch):
    seen = []
    monkeypatch.setattr(
        cuts, "measure_cuts", lambda *args, **kw: seen.append(args[1].shape) or measure_cuts(*args, **kw)
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    (chosen,) = cuts.settle_cut(net, "auto:memory", faces, FAST)
    assert chosen == measure_cuts(net, torch.randn(64, 3, 32, 32), repeats=1).propose("memory").at[0]
    assert seen == [(FAST.batch_size, 3, 32, 32)]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_unlearn_cuts_where_auto_says_and_names_it(net, faces, known, tmp_path):
    engine = FAST.model_copy(update={"epochs": 1})
    method = MethodConfig(heads=("pooled",), head_width=8, decoder_width=8)
    settings = {"method": method, "engine": engine, "progress": False}
    result = unlearn(net, faces, "auto:memory", folder=tmp_path, **settings)
    assert result.at == ("middle",)
    with pytest.raises(
        ConfigError, match=r"(?s)named layers when a training resumes.*'auto:memory'.*UnlearnedModel.at"
    ):
        unlearn(net, faces, "auto:memory", folder=tmp_path, resume=True, **settings)


def test_a_training_is_not_gone_on_with_under_another_method_or_augmentation(net, faces, tmp_path):
    seen = []

    class Mine(Detachment):
        def fit(self, model, data, at, config, engine, job):
            seen.append(job.fingerprint)
            raise TrainingError("seen")

    class Other(Mine):
        pass

    for method, augment in ((Mine(), (True, 4)), (Mine(), (True, 4)), (Mine(), (False, 0)), (Other(), (True, 4))):
        with pytest.raises(TrainingError, match="seen"):
            unlearn(net, faces, "middle", method=method, folder=tmp_path, augment=augment, engine=FAST)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_several_processes_must_be_told_where_to_cut(net, faces, monkeypatch):
    with pytest.raises(ConfigError, match=r"named layers where several processes train.*ls layers MODEL --measure"):
        cuts.settle_cut(net, "auto", faces, FAST.model_copy(update={"devices": 2}))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"several processes"):
        cuts.settle_cut(net, "auto", faces, FAST)


def test_a_run_writes_down_what_was_chosen_and_keeps_to_it_when_it_resumes(faces, tmp_path, monkeypatch):
    """The second measurement gives another cut: it must not be asked."""
    chosen = iter([["layer1"], ["layer3"]])
    monkeypatch.setattr(runner, "settle_cut", lambda *_: next(chosen))
    monkeypatch.setattr(runner, "load", lambda *_: faces)
    config = Config.from_mapping(
        {
            "name": "auto",
            "data": {"source": "toyfaces", "attributes": ["glasses", "hat"], "size": 32},
            "model": {"name": "resnet18", "at": "auto:balance", "options": {"width": 8}},
        }
    )
    trained = []
    monkeypatch.setattr(runner, "train_original", lambda config, *_: trained.append(config.model.at) or 1 / 0)
    for resume in (False, True):
        with pytest.raises(ZeroDivisionError):
            runner.run(config, tmp_path / "run", resume=resume, progress=False)
    assert trained == ["layer1", "layer1"]
    assert Config.from_yaml(tmp_path / "run" / "config.yaml").model.at == "layer1"


@pytest.mark.parametrize("command", ["run", "compare", "run_to_target", "sweep"])
def test_a_whole_run_in_several_processes_is_refused_before_any_of_them_writes(monkeypatch, tmp_path, command):
    """Fabric would start the command again for each device, and torchrun has."""
    out, config = tmp_path / "run", Config.from_mapping({"engine": {"devices": 2}})
    calls = {
        "run": lambda: runner.run(config, out),
        "compare": lambda: compare(config, "leace", 1, out),
        "run_to_target": lambda: run_to_target(config, 0.1, out),
        "sweep": lambda: sweep(Sweep("toyfaces-smiling-glasses", ("engine.devices=2",), out)),
    }
    with pytest.raises(ConfigError, match=r"`engine.devices` to be 1 in a whole run.*but got 2.*efface.unlearn"):
        calls[command]()
    assert not out.exists()
    runner.refuse_several_processes(Config.from_mapping({"engine": {"devices": 2, "schedule": "local_parallel"}}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"started once, but got 'several processes of torchrun'.*efface.unlearn"):
        calls[command]()
    assert not out.exists()


def test_the_command_line_shows_layers_and_proposals(monkeypatch):
    from typer.testing import CliRunner

    from efface.cli import ls
    from efface.cli.app import app, console

    assert ls is not None
    monkeypatch.setattr(console, "width", 240)
    arguments = ["ls", "layers", "torchvision/resnet18", "--size", "16", "--measure", "--batch", "2", "--blocks", "3"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    for text in ("layer2.0", "auto:speed", "auto:memory", "auto:balance", "less at a time", "A whole step of 2 images"):
        assert text in shown.output
