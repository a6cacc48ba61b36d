"""Every method, one contract: the original's keys, determinism by seed, resume to the bit, several attributes, gaps.

All of it on data with two attributes, a quarter of whose labels are missing. A method may add a layer at the cut: its
keys are named ``LAYER.release.…``, and ``restore`` puts it back from the state alone.
"""

import copy
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import pytest
import torch

from conftest import Net
from efface.config import CodeConfig, EngineConfig, EraserConfig, MethodConfig, NarrowConfig
from efface.data.batches import Batches
from efface.data.toyfaces import load_toyfaces
from efface.engine import Job
from efface.errors import ConfigError
from efface.experiments import find_config
from efface.experiments.joined import SECTIONS
from efface.experiments.runner import fresh_model
from efface.methods import METHODS, UnlearnedModel, find_method, restore, unlearn
from efface.models import build, split

CUT = "middle"
FAST = EngineConfig(epochs=2, batch_size=64, precision="32-true", threads=1, device="cpu", log_every=1)
SMALL = MethodConfig(
    head_width=8,
    decoder_width=8,
    inner_steps=1,
    heads=("conv", "pooled"),
    restart_every=1,
    head_average=0.9,
    attribute_weights={"hat": 0.5},
    eraser=EraserConfig(dimensions=48, rounds=2, settle_epochs=2),
    code=CodeConfig(levels=(2, 3), width=8),
    narrow=NarrowConfig(channels=3, step=0.5, noise=0.1),
)
ADDS_A_LAYER = {"leace", "detachment_leace", "narrow", "inlp", "random_projection", "task_bottleneck", "quantised"}
NAMES = METHODS.names()


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@dataclass
class Run:
    """A finished run and what it left."""

    model: torch.nn.Module
    result: UnlearnedModel
    folder: Path

    @property
    def state(self):
        return self.model.state_dict()


FOLDERS = TemporaryDirectory(prefix="efface-contract-")
"""Of trained models, which many tests look at; gone when the process ends."""


@cache
def partly_labelled():
    """300 drawn faces; of every fourth, one of the two attributes is unknown."""
    faces = load_toyfaces(n=300, size=32, seed=0, attributes=("glasses", "hat"))
    labels, number = dict(faces.labels), np.arange(300)
    for turn, name in enumerate(("glasses", "hat")):
        labels[name] = np.where(number % 4 == turn, -1, labels[name])
    return replace(faces, labels=labels)


def train(name, seed, folder, resume=False):
    torch.manual_seed(0)
    model = Net(dropout=0.2)
    job = Job(folder=folder, fingerprint="x", seed=seed, progress=False, resume=resume)
    method = find_method(name)
    # None in place of another method's section: whoever reads it fails.
    unread = dict.fromkeys(set(SECTIONS) - set(method.sections))
    config = SMALL.model_copy(update={"name": name, **unread})
    result = method.fit(model, partly_labelled(), [CUT], config, FAST, job)
    return Run(model, result, folder)


@cache
def trained(name, seed=1):
    return train(name, seed, Path(mkdtemp(dir=FOLDERS.name)))


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_the_original_s_with_at_most_a_layer_at_the_cut(name):
    run, fresh = trained(name), Net()
    added = [key for key in run.state if key not in fresh.state_dict()]
    assert [key for key in run.state if key not in added] == list(fresh.state_dict())
    assert all(key.startswith(f"{CUT}.release.") for key in added)
    assert bool(added) == (name in ADDS_A_LAYER)
    assert run.result.model is run.model
    assert run.result.method == name
    assert run.result.at == (CUT,)
    assert any(not torch.equal(value, run.state[key]) for key, value in fresh.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in run.model.modules())
    assert all(parameter.requires_grad for parameter in run.model.parameters())
    assert all(torch.isfinite(value).all() for value in run.state.values() if value.is_floating_point())


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_load_back(name):
    # The layout of memory decides the order of sums; training leaves it channels last.
    run, fresh = trained(name), Net().to(memory_format=torch.channels_last)
    images = next(Batches(partly_labelled(), "test", 32).sequential()).images
    assert restore(fresh, run.state) is fresh
    fresh.eval()
    run.model.eval()
    with torch.no_grad():
        assert torch.equal(fresh(images), run.model(images))
        assert torch.equal(split(fresh, CUT)(images), run.model(images))
    again = copy.deepcopy(run.model)
    assert list(again.state_dict()) == list(run.state)
    restore(again, run.state)  # a layer that is there already is kept


@pytest.mark.parametrize("name", NAMES)
def test_what_is_released_is_the_layers_output(name):
    """The features at the cut are those of the layer that was added: an attacker there sees no others."""
    run = trained(name)
    images = next(Batches(partly_labelled(), "test", 32).sequential()).images
    run.model.eval()
    seen = []
    hook = run.model.get_submodule(CUT).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        run.model(images)
        hook.remove()
        assert torch.equal(split(run.model, CUT, images).features(images), seen[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_to_the_same_weights(name, tmp_path, monkeypatch):
    """The same seed gives the same weights, also through a kill in its last epoch."""
    whole = trained(name)
    epochs = whole.result.history.steps // 3  # three batches each
    assert whole.result.history.steps == 3 * epochs > 0
    begun, epoch = [], Batches.epoch

    def dying(self, number, start=0):
        begun.append(number)
        if len(begun) == epochs:
            raise Killed
        yield from epoch(self, number, start)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "epoch", dying)
        with pytest.raises(Killed):
            train(name, 1, tmp_path)
    resumed = train(name, 1, tmp_path, resume=True)
    for key, value in whole.state.items():
        assert torch.equal(value, resumed.state[key]), key
    assert (tmp_path / "metrics.jsonl").read_text() == (whole.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_gives_other_weights(name, tmp_path):
    one, other = trained(name).state, train(name, 2, tmp_path).state
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_the_log_tells_of_fidelity_and_of_every_attribute_that_is_guessed(name):
    figures = trained(name).result.history.lines[-1]["metrics"]
    assert 0 <= figures["fidelity"] <= 1
    guessed = {"adversarial", "maxent", "learning_not_to_learn", "vclub", "detachment", "narrow", "quantised"}
    assert {key.split("/")[1] for key in figures if key.startswith("removal_accuracy/")} == (
        {"glasses", "hat"} if name in guessed else set()
    )


@pytest.mark.parametrize(
    "name", sorted({"vclub", "leace", "narrow", "quantised", "task_bottleneck", "learning_not_to_learn"})
)
@pytest.mark.parametrize("schedule", ["local", "end_to_end"])
def test_several_cuts_and_schedules(name, schedule):
    torch.manual_seed(0)
    model = Net()
    engine = FAST.model_copy(update={"epochs": 1, "schedule": schedule})
    method = SMALL.model_copy(update={"name": name, "variant": "paper"})
    result = unlearn(model, partly_labelled(), ["middle", "low"], method=method, engine=engine, progress=False)
    assert result.at == ("low", "middle")
    # A code after the first cut decides all that comes later; a linear eraser does not.
    places = {key.split(".release.")[0] for key in model.state_dict() if ".release." in key}
    wanted = {"leace": {"low", "middle"}, "narrow": {"low"}, "quantised": {"low"}, "task_bottleneck": {"low"}}
    assert places == wanted.get(name, set())


@pytest.mark.parametrize("name", sorted(ADDS_A_LAYER))
def test_a_second_layer_is_refused(name):
    model = copy.deepcopy(trained(name).model)
    with pytest.raises(ConfigError, match="`middle` has a layer of an earlier unlearning"):
        unlearn(model, partly_labelled(), CUT, method=SMALL.model_copy(update={"name": name}), engine=FAST)


@pytest.mark.parametrize("name", NAMES)
def test_suggested_settings_are_settings(name):
    method = find_method(name)
    MethodConfig.model_validate({"name": name, **method.suggested})
    assert method.summary


def test_a_model_with_one_logit_is_refused():
    model, faces = torch.nn.Sequential(Net(), torch.nn.Linear(2, 1)), load_toyfaces(n=60, size=32)
    with pytest.raises(ConfigError, match=r"one output for each of the 2 classes.*two logits, not one"):
        unlearn(model, faces, "0.middle", method=SMALL, engine=FAST, progress=False)


def test_users_weights_are_the_originals_and_of_scratch_nothing(tmp_path):
    trained = build("resnet18", 2, 32, "standard", width=8)
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    sets = ["data.target=smiling", "model.name=resnet18", "model.options={width: 8}", "method.init=scratch"]
    config = find_config("toyfaces-smiling-glasses", [*sets, f"model.weights={tmp_path / 'w.pt'}"])
    faces = load_toyfaces(n=40, size=32)
    original, unlearned = (
        fresh_model(config, faces, role).state_dict()["conv1.weight"] for role in ("original", "unlearned")
    )
    assert torch.equal(original, trained.state_dict()["conv1.weight"])
    assert not torch.equal(unlearned, original)


KEEPS = [name for name in NAMES if find_method(name).preserves]


@pytest.mark.parametrize("name", KEEPS)
def test_a_column_is_kept_on_request(name, tmp_path):
    """The block learns it by its weight, from labels of which a quarter is missing; the log tells its loss."""
    data = partly_labelled()
    labels = {**data.labels, "skin_tone": np.where(np.arange(300) % 4 == 3, -1, data.labels["skin_tone"])}
    data, states = replace(data, labels=labels), []
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        model = Net()
        method = SMALL.model_copy(update={"name": name, "preserve": ("skin_tone",), "preserve_weight": weight})
        unlearn(model, data, CUT, method=method, engine=FAST, seed=1, folder=tmp_path, progress=False)
        states.append(model.state_dict())
    low = [key for key in states[0] if key.startswith("low.")]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in low)
    lines = [json.loads(line)["metrics"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/preserve/skin_tone"] for line in lines if "loss/preserve/skin_tone" in line]
    assert len(losses) >= 3
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(KEEPS)))
def test_methods_that_cannot_keep_a_column_say_so(name):
    method = SMALL.model_copy(update={"name": name, "preserve": ("skin_tone",)})
    with pytest.raises(ConfigError, match=f"`method.preserve` to be empty for `{name}`"):
        unlearn(Net(), partly_labelled(), CUT, method=method, engine=FAST, progress=False)


def test_columns_that_cannot_be_kept_are_all_told_at_once():
    method = SMALL.model_copy(update={"preserve": ("glasses", "smiling", "skintone", "skin_tone", "skin_tone")})
    with pytest.raises(ConfigError) as caught:
        unlearn(Net(), partly_labelled(), CUT, method=method, engine=FAST, progress=False)
    for text in (
        "'glasses', which is an attribute to unlearn",
        "which is the target",
        "Did you mean 'skin_tone'",
        "'skin_tone' more than once",
    ):
        assert text in str(caught.value)


def test_fewer_codes_than_classes_of_the_task_are_refused():
    method = SMALL.model_copy(update={"name": "quantised", "code": CodeConfig(levels=(2,), width=8)})
    data = load_toyfaces("skin_tone", ("glasses",), n=100, size=32)
    assert data.target.n_classes > 2
    with pytest.raises(
        ConfigError, match=r"(?s)names 'hat'.*at least 4, .* of skin_tone, but got \[2\]. That makes 2 codes"
    ):
        unlearn(Net(data.target.n_classes), data, CUT, method=method, engine=FAST, progress=False)
