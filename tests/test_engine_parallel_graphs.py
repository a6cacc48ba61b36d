"""Rounds of a pipeline that a GPU may replay: `local`'s weights, and steps that never ask the device.

Without a GPU every round is made kernel by kernel; what a graph needs beyond that is checked by its cause.
"""

from importlib import import_module
from itertools import pairwise

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import Net
from efface.config import CodeConfig, Config, EngineConfig, NarrowConfig
from efface.data.batches import Batches
from efface.engine import Job, loop
from efface.engine.devices import device_for, make_fabric
from efface.engine.optim import set_rate
from efface.engine.parallel import executor, graphs
from efface.engine.parallel.graphs import Pipeline
from efface.engine.stages import Part, Stage
from efface.errors import ConfigError
from efface.methods import find_method
from efface.objectives import Terms
from parallel_helpers import CODED, CUTS, FAST, SMALL, assert_equal, few

STILL = SMALL.model_copy(update={"heads": ("conv", "ridge"), "preserve": ("skin_tone",)})
FIT = import_module("efface.engine.fit")  # the package has a function of this name
GRAPHS = {"schedule": "local_parallel", "graphs": True}


def train(faces, blocks, folder=None, resume=False, config=FAST):
    """Train without random layers: all blocks of a round share a seed, and would draw other numbers than in `local`."""
    torch.manual_seed(0)
    model = Net(dropout=0.0)
    if folder is not None:
        folder.mkdir(exist_ok=True)
    job = Job(progress=False, seed=3, folder=folder, fingerprint="f", resume=resume)
    method = CODED if blocks == 3 else STILL
    history = find_method(method.name).fit(model, few(faces), CUTS[blocks], method, config, job).history
    return {name: value.clone() for name, value in model.state_dict().items()}, history.lines


@pytest.fixture
def replayed(monkeypatch):
    """Training goes through the graphs' executor, also on the CPU."""

    def use():
        monkeypatch.setattr(FIT, "executor", lambda *_: graphs.run)

    return use


@pytest.mark.parametrize("blocks", [2, 3])
def test_weights_log_and_checkpoint_are_those_of_local(faces, blocks, tmp_path, replayed):
    config = FAST.model_copy(update={"checkpoint_every": 4})  # six steps an epoch: the pipeline drains inside, too
    wanted, log = train(faces, blocks, tmp_path / "local", config=config)
    replayed()
    found, lines = train(faces, blocks, tmp_path / "graphs", config=config)
    assert_equal(found, wanted)
    assert lines == log
    files = [next((tmp_path / name / "checkpoints").glob("*.pt")) for name in ("local", "graphs")]
    states = [torch.load(file) for file in files]
    assert states[0]["step"] == states[1]["step"] == 12
    assert_equal(states[0]["stages"], states[1]["stages"])


def test_a_training_that_stopped_goes_on(faces, tmp_path, replayed, monkeypatch):
    whole, _ = train(faces, 3)
    replayed()
    config = FAST.model_copy(update={"checkpoint_every": 4})
    advance, rounds = Pipeline.advance, []

    def stopped(pipeline):
        rounds.append(pipeline.occupied)
        if len(rounds) == 9:
            raise KeyboardInterrupt
        return advance(pipeline)

    monkeypatch.setattr(Pipeline, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(faces, 3, tmp_path, config=config)
    assert rounds[:7] == [[0], [0, 1], [0, 1, 2], [0, 1, 2], [1, 2], [2], [0]]
    monkeypatch.setattr(Pipeline, "advance", advance)
    resumed, _ = train(faces, 3, tmp_path, resume=True, config=config)
    assert_equal(resumed, whole)


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, gives a result whose size depends on numbers, or sends numbers."""

    ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique", "is_nonzero", "lift_fresh")

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put_", "index_put") else []
        masked = any(i is not None and i.dtype == torch.bool for i in indices)
        if masked or any(name.startswith(one) for one in self.ASKS):
            raise AssertionError(f"the step asks the device: {name}")
        return function(*arguments, **(keywords or {}))


def one_hot(labels, classes):
    """As on a GPU: on the CPU alone, torch checks the labels' range."""
    return torch.zeros(*labels.shape, classes, dtype=torch.int64).scatter_(-1, labels[..., None], 1)


EVERY = {"heads": ("conv", "pooled", "grid", "ridge")}
"""Kinds of heads."""


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("detachment", EVERY),
        ("detachment", EVERY | {"removal": "reversal", "keep": "features"}),
        ("detachment", EVERY | {"removal": "vclub", "variant": "paper"}),
        ("narrow", EVERY | {"narrow": NarrowConfig(channels=4)}),
        ("quantised", {"heads": ("conv",), "code": CodeConfig(soften=0.5, target_table=1, kept_table=1)}),
        ("adversarial", {"heads": ("conv",)}),
        ("maxent", {"heads": ("conv",)}),
        ("learning_not_to_learn", {"heads": ("conv",)}),
        ("vclub", {"heads": ("conv",)}),
        ("task_bottleneck", {}),
    ],
)
def test_a_round_asks_nothing_of_the_device(faces, method, settings, monkeypatch):
    """What a graph can't hold is a step that reads a number on the host, or a shape that hangs on one."""
    chosen = find_method(method)
    every = STILL.model_copy(update=settings if chosen.preserves else settings | {"preserve": ()})
    seen = []

    def look(training):
        batches = list(training.batches.epoch(0))
        pipeline = Pipeline(training.fabric, training.stages, batches[0])
        for step, batch in enumerate(batches):
            pipeline.load(batch, step)
            for index in pipeline.occupied:
                training.stages[index].begin_step(pipeline.places[index].step, 6, 6)
                training.stages[index].settle()
            with NoQuestions():
                seen.append(len([figures for figures in pipeline.advance() if figures]))

    monkeypatch.setattr(functional, "one_hot", one_hot)
    monkeypatch.setattr(FIT, "executor", lambda *_: look)
    # The CPU's clipping and AdamW don't ask either; gradients are scaled by no number that the host knows.
    chosen.fit(Net(dropout=0.3), few(faces), CUTS[3], every, FAST, Job(progress=False))
    assert seen == [1, 2, 3, 3, 3, 3]


def test_the_question_finder_finds_questions():
    values = torch.arange(4.0)
    asks = (lambda: float(values[0]), lambda: values[values > 1], lambda: bool((values > 1).any()))
    for ask in (*asks, values.unique, lambda: torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError, match="asks the device"), NoQuestions():
            ask()


def test_a_block_sees_the_images_of_its_own_batch(faces):
    """A decoder's target is made from the pixels; those of the batch before must not be kept."""
    seen = []

    class Looks(torch.nn.Module):
        def forward(self, features, batch, progress):
            seen.append((batch.images.mean(), float(progress)))
            return Terms(features.float().square().mean())

    fabric = make_fabric(FAST)
    stage = Stage(Part(torch.nn.Conv2d(3, 4, 3), Looks()), fabric, FAST)
    batches = list(Batches(few(faces), "train", 32).epoch(0))
    pipeline = Pipeline(fabric, [stage], batches[0])
    for step, batch in enumerate(batches):
        pipeline.load(batch, step)
        pipeline.places[0].progress.fill_(step / 10)
        pipeline.advance()
    assert torch.equal(torch.stack([mean for mean, _ in seen]), torch.stack([batch.images.mean() for batch in batches]))
    assert [share for _, share in seen] == pytest.approx([step / 10 for step in range(len(batches))])


def test_a_head_that_starts_afresh_makes_the_graph_stale(faces, replayed, monkeypatch):
    forgotten = []
    forget = Pipeline.forget

    def noted(pipeline):
        warm, _ = pipeline._warm, forget(pipeline)
        forgotten.append(([place.step for place in pipeline.places], warm, pipeline._warm))

    monkeypatch.setattr(Pipeline, "forget", noted)
    replayed()
    train(faces, 2, config=FAST.model_copy(update={"epochs": 3}))
    assert forgotten == [([6, None], 5, 0), ([12, None], 5, 0)], "rounds of both blocks are five an epoch"


def test_rates_stay_where_a_graph_reads_them_and_checkpoints_are_as_any_other():
    config = FAST
    stage = Stage(Part(torch.nn.Linear(3, 2), torch.nn.Identity()), make_fabric(config), config)
    plain = stage.state()["optimizers"]
    graphs._keep_on_device([stage], torch.device("cpu"))
    places = [group["lr"] for group in stage.optimizer.param_groups]
    rates = []
    for step in range(3):
        set_rate(stage.optimizer, step, 30, 0.1)
        rates.append(float(places[0]))
    assert all(group["lr"] is place for group, place in zip(stage.optimizer.param_groups, places, strict=True))
    assert all(low < high for low, high in pairwise(rates))
    portable = stage.state()["optimizers"]
    for group in portable[0]["param_groups"]:
        assert isinstance(group.pop("lr"), float)
    without = [{name: value for name, value in group.items() if name != "lr"} for group in plain[0]["param_groups"]]
    assert_equal(portable[0]["param_groups"], without)
    assert isinstance(places[0], torch.Tensor)
    assert stage.optimizer.param_groups[0]["lr"] is places[0]


def test_graphs_are_refused_where_nothing_could_replay_them():
    for wrong in ({"schedule": "local"}, {"optimizer": "sgd"}, {"devices": 2}, {"precision": "16-mixed"}):
        with pytest.raises(ConfigError, match=r"`engine.graphs`: true goes with .* only, but got True"):
            Config.from_mapping({"engine": GRAPHS | wrong})
    config = EngineConfig(**GRAPHS, device="cpu")
    with pytest.raises(ConfigError, match=r"false but on one CUDA GPU, in one process, but got 'the device `cpu`'"):
        make_fabric(config)
    assert device_for(config).type == "cpu", "what a GPU has trained is audited anywhere"
    assert executor(config, make_fabric(FAST), 1) is graphs.run
    # Methods that train one block once more do so with `local`.
    assert executor(config.model_copy(update={"schedule": "local"}), make_fabric(FAST), 1) is loop.run


def test_graphs_change_no_fingerprint_where_there_are_none(monkeypatch):
    counted = []
    monkeypatch.setattr("efface.config.json.dumps", lambda values, **_: counted.append(values["engine"]) or "")
    for engine in ({"schedule": "local_parallel"}, GRAPHS):
        Config.from_mapping({"engine": engine}).fingerprint()
    assert counted[1].keys() - counted[0].keys() == {"graphs", "checkpoint_every"}
