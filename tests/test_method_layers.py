"""Layers at the cut: what they compute (theorems and oracles), how they sit in a model, and how they come back."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import Net
from efface.config import EngineConfig, EraserConfig, MethodConfig, NarrowConfig
from efface.data.batches import Batches
from efface.errors import CheckpointError, ConfigError, CutError
from efface.heads.eraser import AffineEraser, ChannelProjection
from efface.heads.mounting import build_release, mount, mount_checked, mounted, restore, unmount
from efface.heads.narrow import NarrowPassage
from efface.heads.positions import averaging, by_position, from_positions, position_groups, size_of
from efface.heads.quantiser import Quantiser, TaskBottleneck
from efface.heads.release import pack
from efface.methods import unlearn
from efface.methods.leace import Leace
from efface.methods.posthoc import Stream
from efface.models import build, split

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from concept_erasure import LeaceEraser

SHAPES = [(6, 4, 4), (5, 3, 5), (17, 8), (16, 8), (9,)]
FAST = EngineConfig(epochs=1, batch_size=64, precision="32-true", threads=1, device="cpu")


class Stage(nn.Module):
    """A module that is no plain sequence: it has a residual connection."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.mix(x)


class Chain(nn.ModuleDict):
    """A module that runs whatever children it has: it can't tell the new one from its own."""

    def forward(self, x):
        for layer in self.values():
            x = layer(x)
        return x


def staged():
    return nn.Sequential(nn.Linear(3, 4), Stage(), nn.Linear(4, 2))


# ---------------------------------------------------------------- positions


@given(st.sampled_from(SHAPES), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_groups_are_a_partition_whose_means_can_be_set(shape, limit):
    groups = position_groups(shape, limit)
    channels, positions = size_of(shape)
    count = int(groups.max()) + 1
    assert len(groups) == positions
    assert set(groups.tolist()) == set(range(count))
    assert channels * count <= limit or count == 1 + (len(shape) == 2 and shape[0] == 17)
    matrix, values = averaging(groups), torch.randn(3, channels, count)
    assert torch.allclose(values[:, :, groups] @ matrix, values, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_positions_and_back(shape):
    features = torch.randn(3, *shape)
    values = by_position(features)
    assert values.shape[1:] == size_of(shape)
    assert torch.equal(from_positions(values, shape), features)


# ---------------------------------------------------------------- LEACE


def trained_features(net, faces, split_name="train"):
    block = split(net, "middle").blocks[0].eval()
    batches = Batches(faces, split_name, 256).sequential()
    with torch.no_grad():
        found = [(block(batch.images).flatten(1), batch.attributes["glasses"]) for batch in batches]
    return torch.cat([f for f, _ in found]), torch.cat([z for _, z in found])


@pytest.mark.parametrize("limit", [768, 48])
def test_leace_equals_concept_erasure(limit, net, faces):
    """All positions, and the means of cells: to 1e-6 of the package's own eraser on the same numbers."""
    glasses = replace(faces, schema=replace(faces.schema, attributes=faces.schema.attributes[:1]))
    config = MethodConfig(variant="paper", eraser=EraserConfig(dimensions=limit))
    stream = Stream(split(net, "middle").blocks[0], glasses, config, torch.device("cpu"), seed=0)
    layer = Leace().learn(stream, (12, 8, 8))
    features, labels = trained_features(net, glasses)
    maps = features.view(-1, 12, 8, 8).double()
    side = {768: 8, 48: 2}[limit]
    read = nn.functional.adaptive_avg_pool2d(maps, side).flatten(1)
    eraser = LeaceEraser.fit(read, nn.functional.one_hot(labels).double())
    change = (eraser(read) - read).view(-1, 12, side, side)
    wanted = maps + change.repeat_interleave(8 // side, 2).repeat_interleave(8 // side, 3)
    assert (layer.double()(maps) - wanted).abs().max() < 1e-6


def residual(labels, target, given):
    """One-hot z less its mean, or its mean within y."""
    rows = np.eye(labels.max() + 1)[labels]
    if not given:
        return rows - rows.mean(0)
    return rows - np.stack([rows[target == y].mean(0) for y in range(target.max() + 1)])[target]


@pytest.mark.parametrize("variant", ["paper", "conditional"])
def test_leace_leaves_no_covariance_with_what_it_erases(variant, net, faces):
    """The theorem behind linear guardedness, for two attributes at once; the control: before, there was some."""
    config = MethodConfig(variant=variant, eraser=EraserConfig(dimensions=768))
    stream = Stream(split(net, "middle").blocks[0], faces, config, torch.device("cpu"), seed=0)
    layer = Leace().learn(stream, (12, 8, 8)).double()
    features, _ = trained_features(net, faces)
    erased = layer(features.view(-1, 12, 8, 8).double()).flatten(1)
    target = faces.split_labels("train", faces.target.name)
    for column in faces.attributes:
        z = residual(faces.split_labels("train", column.name), target, variant == "conditional")

        def covariance(h, z=z):
            return float((h - h.mean(0)).T.mul(1 / len(h)).matmul(torch.from_numpy(z)).abs().max())

        # p(z|y) is counted with one pseudo-count, hence not 1e-12 in the conditional variant.
        assert covariance(erased) < 0.05 * covariance(features.double())


def test_a_missing_label_moves_nothing(net, faces):
    """Erasing with gaps is erasing what the known labels tell: their covariance vanishes, not that of the zeros."""
    hidden = dict(faces.labels)
    hidden["glasses"] = np.where(np.arange(len(faces)) % 2 == 0, -1, faces.labels["glasses"])
    partial = replace(faces, labels=hidden, schema=replace(faces.schema, attributes=faces.schema.attributes[:1]))
    config = MethodConfig(variant="paper", eraser=EraserConfig(dimensions=768))
    stream = Stream(split(net, "middle").blocks[0], partial, config, torch.device("cpu"), seed=0)
    layer = Leace().learn(stream, (12, 8, 8)).double()
    features, labels = trained_features(net, partial)
    known = labels >= 0
    erased = layer(features[known].view(-1, 12, 8, 8).double()).flatten(1)
    z = torch.from_numpy(residual(labels[known].numpy(), None, False))

    def correlated(h):
        return float(((h - h.mean(0)).T @ z / len(h)).abs().max())

    assert correlated(erased) < 0.05 * correlated(features[known].double())


@pytest.mark.parametrize("method", ["leace", "inlp"])
def test_a_linear_attacker_finds_less(method, faces):
    """On held-out people a linear classifier falls towards the majority; a random projection of as much does not."""
    from sklearn.linear_model import LogisticRegression

    def found(name):
        torch.manual_seed(0)
        net = Net()
        eraser = EraserConfig(dimensions=192, rounds=6, settle_epochs=0, keep=0.9)
        config = MethodConfig(name=name, variant="paper", eraser=eraser)
        unlearn(net, faces, "middle", method=config, engine=FAST, progress=False)
        block = split(net, "middle").blocks[0].eval()
        seen = {}
        for part in ("train", "test"):
            batch = next(Batches(faces, part, 1000).sequential())
            with torch.no_grad():
                cells = nn.functional.adaptive_avg_pool2d(block(batch.images), 4).flatten(1)
            seen[part] = (cells.numpy(), batch.attributes["glasses"].numpy())
        scale = seen["train"][0].std(0) + 1e-6
        attacker = LogisticRegression(C=1.0, max_iter=300).fit(seen["train"][0] / scale, seen["train"][1])
        return attacker.score(seen["test"][0] / scale, seen["test"][1])

    assert found("random_projection") > found(method) + 0.1


# ---------------------------------------------------------------- codes


def seasoned(layer, features):
    """The layer with the statistics of these features, in evaluation mode."""
    layer.train()
    with torch.no_grad():
        for _ in range(40):
            layer(features)
    return layer.eval()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [(2,), (2, 3, 4), (5, 5)])
def test_what_is_released_is_a_function_of_the_code(shape, levels):
    torch.manual_seed(0)
    features = torch.randn(64, *shape)
    layer = seasoned(Quantiser(shape=shape, levels=levels, width=8), features)
    with torch.no_grad():
        codes, released = layer.codes(features), layer(features)
    assert codes.min() >= 0
    assert codes.max() < layer.n_codes == int(np.prod(levels))
    assert len(codes.unique()) > 1
    assert released.shape == features.shape
    assert torch.allclose(layer.table()[codes], released, atol=1e-6)
    noisy = released + 1e-3 * released.std() * torch.randn_like(released)
    assert torch.equal(layer.read(released), codes)
    assert torch.equal(layer.read(noisy), codes)


def test_the_digits_of_a_code_are_its_levels():
    layer = Quantiser(shape=(4,), levels=(2, 3), width=8)
    index = torch.tensor([[0, 0], [0, 2], [1, 0], [1, 2]])
    assert layer._code(index).tolist() == [0, 2, 3, 5]
    assert torch.allclose(layer._centre(index), layer.centres[layer._code(index)])
    position = torch.tensor([[-1.0, -1.0], [-0.01, 0.34], [0.0, -0.34], [1.0, 1.0]])
    assert layer._index(position).tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]


def test_training_gives_the_gradient_of_the_rounded_numbers():
    """Straight through: forward the centres, backward the identity; and the assignment is one-hot with a gradient."""
    torch.manual_seed(0)
    layer = Quantiser(shape=(6,), levels=(2, 3), width=8).train()
    features = torch.randn(32, 6, requires_grad=True)
    released = layer(features)
    assert torch.equal(layer.latest.detach().sum(1), torch.ones(32))
    assert set(layer.latest.detach().unique().tolist()) <= {0.0, 1.0}
    released.square().sum().backward(retain_graph=True)
    assert layer.encode.weight.grad.abs().max() > 0
    first = features.grad.clone()
    (layer.latest * torch.arange(6.0)).sum().backward()
    assert not torch.equal(first, features.grad)
    assert layer.eval()(features) is not None
    assert layer.latest is None


def test_rounding_sets_in_over_a_share_of_training():
    torch.manual_seed(0)
    features, layer = torch.randn(32, 6), Quantiser(shape=(6,), levels=(2, 3), width=8, soften=0.4).train()
    with torch.no_grad():
        position = layer._position(features)
        centre = layer._centre(layer._index(position))
        for progress, hardness in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
            layer.advance(progress)
            expected = layer._lay_out(torch.lerp(position, centre, hardness))
            assert torch.allclose(layer(features), expected, atol=1e-5)
        layer.advance(0.0)
        layer.eval()
        assert torch.equal(layer(features), layer.table()[layer.codes(features)]), "what is released is always rounded"
    assert "hardness" not in layer.state_dict()
    layer.advance(1.0)
    assert layer.hardness == 1


def test_soft_assignments_are_distributions():
    torch.manual_seed(0)
    layer = Quantiser(shape=(6,), levels=(3, 4), width=8)
    position = torch.rand(40, 2) * 2 - 1
    index = layer._index(position)
    one = layer._assignment(position.requires_grad_(), index)
    # Soft shares sum to 1 wherever the numbers lie: the gradient of the sum is 0.
    (gradient,) = torch.autograd.grad(one.sum(), position)
    assert gradient.abs().max() < 1e-5


def test_the_bottleneck_releases_the_guess_and_nothing_else():
    torch.manual_seed(0)
    features = torch.randn(64, 6, 4, 4)
    layer = TaskBottleneck(shape=(6, 4, 4), classes=3, width=8)
    layer.train()(features)
    assert layer.latest.shape == (64, 3)
    seasoned(layer, features)
    released, codes = layer(features), layer.codes(features)
    assert len(codes.unique()) > 1
    assert torch.equal(released, layer.pictures[codes])
    assert torch.equal(layer.read(released), codes)


# ---------------------------------------------------------------- in a model


LAYERS = [
    ("1", lambda: ChannelProjection(shape=(4,))),
    ("1", lambda: AffineEraser(shape=(4,), limit=4, rank=2)),
    ("1", lambda: Quantiser(shape=(4,), levels=(2, 2), width=8)),
    ("1", lambda: TaskBottleneck(shape=(4,), classes=3, width=8)),
]


@pytest.mark.parametrize(("at", "make"), LAYERS)
def test_a_layer_on_a_module_with_code_of_its_own(at, make):
    torch.manual_seed(0)
    model, layer = staged().eval(), make().eval()
    keys, images = list(model.state_dict()), torch.randn(5, 3)
    before = split(model, at).features(images)
    mount(model, at, layer)
    assert isinstance(model[1], Stage)  # whoever asks what it is gets the same answer
    assert [key for key in model.state_dict() if ".release." not in key] == keys
    assert mounted(model, at) is layer
    assert torch.equal(split(model, at, images).features(images), layer(before))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), restore(staged(), model.state_dict()).eval()):
        assert torch.equal(twin(images), model(images))
        assert list(twin.state_dict()) == list(model.state_dict())
    unmount(model, at)
    assert type(model[1]) is Stage
    assert torch.equal(split(model, at).features(images), before)


@pytest.mark.parametrize(
    ("name", "at", "options"), [("resnet18", "layer1.1", {"width": 8}), ("resnet18", "layer2", {"width": 8})]
)
def test_layers_in_a_resnet(name, at, options):
    torch.manual_seed(0)
    model = build(name, 2, 32, **options).eval()
    images = torch.randn(2, 3, 32, 32)
    before = split(model, at).features(images)
    layer = Quantiser(shape=tuple(before.shape[1:]), levels=(2, 2), width=8)
    mount_checked(model, at, layer, before, lambda: split(model, at).features(images))
    fresh = restore(build(name, 2, 32, **options), model.state_dict()).eval()
    assert torch.equal(fresh(images), model(images))


@pytest.mark.parametrize(("at", "make"), LAYERS)
def test_export_carries_the_layer(at, make):
    torch.manual_seed(0)
    model, layer = staged().eval(), make().eval()
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.1 * torch.rand_like(buffer))  # a fresh eraser erases nothing yet
    plain, images = staged().eval(), torch.randn(5, 3)
    plain.load_state_dict(model.state_dict())
    mount(model, at, layer)
    assert not torch.allclose(plain(images), model(images), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (images,))
    assert torch.allclose(exported.module()(images), model(images), atol=1e-6)


def test_a_module_that_runs_its_children_is_refused_and_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), Chain({"a": nn.Linear(4, 4), "b": nn.Tanh()}), nn.Linear(4, 2))
    images = torch.randn(2, 3)
    before = split(model, "1").features(images)
    layer = ChannelProjection(shape=(4,))
    layer.matrix.mul_(0.5)
    with pytest.raises(CutError, match="`1` can't take a layer on top"):
        mount_checked(model, "1", layer, before, lambda: split(model, "1").features(images))
    assert type(model[1]) is Chain
    assert torch.equal(split(model, "1").features(images), before)


def test_error_messages():
    model = staged()
    mount(model, "1", ChannelProjection(shape=(4,)))
    with pytest.raises(ConfigError, match="`1` has a layer of an earlier unlearning"):
        mount(model, "1", ChannelProjection(shape=(4,)))
    other = staged()
    other[1].release = "mine"
    with pytest.raises(ConfigError, match="`1` has a member named 'release' of its own"):
        mount(other, "1", ChannelProjection(shape=(4,)))
    with pytest.raises(CheckpointError, match="no readable description"):
        build_release(torch.tensor([1, 2, 3], dtype=torch.uint8))
    with pytest.raises(CheckpointError, match=r"kind 'erasr' at the cut. Did you mean 'eraser'"):
        build_release(pack({"kind": "erasr"}))
    with pytest.raises(CheckpointError, match="Cannot rebuild the layer 'eraser'"):
        build_release(pack({"kind": "eraser", "form": 3}))
    with pytest.raises(ConfigError, match=r"`method\.code.levels` to be integers of at least 2, but got 1"):
        Quantiser(shape=(4,), levels=(2, 1))
    with pytest.raises(ConfigError, match="at least one number of levels"):
        Quantiser(shape=(4,), levels=())


def test_noise_is_of_training_alone():
    """Normal, in the unit of what passes; a layer that was built from its state has none to add."""
    torch.manual_seed(0)
    features = torch.randn(200, 8, 4, 4)
    values = by_position(features).transpose(1, 2).flatten(0, 1)
    passages = [NarrowPassage((8, 4, 4), channels=3, step=0.0, noise=noise) for noise in (0.0, 0.5)]
    for passage in passages:
        passage.fill(values.mean(0), torch.cov(values.T))
    quiet, loud = (passage.train().code(features).detach() for passage in passages)
    assert float((loud - quiet).std()) == pytest.approx(0.5, rel=0.05)
    assert torch.equal(*(passage.eval()(features) for passage in passages))
    assert passages[0].state_dict().keys() == passages[1].state_dict().keys()
    assert torch.equal(passages[0].spec, passages[1].spec)


def test_a_state_without_layers_loads_as_ever():
    model, other = staged(), staged()
    restore(model, other.state_dict())
    assert torch.equal(model[0].weight, other[0].weight)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        restore(model, {**other.state_dict(), "9.release.spec": pack({"kind": "projection", "shape": [4]})})


@pytest.mark.parametrize("shape", [(6, 4, 4), (17, 8), (9,)])
def test_a_passage_as_wide_as_the_features_lets_all_through(shape):
    torch.manual_seed(0)
    width = size_of(shape)[0]
    features = torch.randn(200, *shape).relu() * torch.rand(200, *shape)
    values = by_position(features).transpose(1, 2).flatten(0, 1).double()
    passage = NarrowPassage(shape, channels=width, step=0.0).eval()
    passage.fill(values.mean(0), torch.cov(values.T))
    torch.testing.assert_close(passage(features), features, rtol=0, atol=1e-4)
    # Of fewer channels the principal components pass: no projection of that rank is nearer.
    narrow = NarrowPassage(shape, channels=3, step=0.0).eval()
    narrow.fill(values.mean(0), torch.cov(values.T))
    change = by_position(narrow(features).detach()) - by_position(features)
    lost = float(change.square().mean(dim=(0, 2)).sum())
    assert lost == pytest.approx(float(torch.linalg.eigvalsh(torch.cov(values.T))[:-3].sum()), rel=0.02)


def test_what_passes_lies_on_the_grid_and_gradients_pass_too():
    torch.manual_seed(0)
    passage, features = NarrowPassage((6, 4, 4), channels=2, step=0.5), torch.randn(64, 6, 4, 4, requires_grad=True)
    passage(features).square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in passage.parameters())
    steps = passage.eval().code(features) / 0.5
    assert torch.equal(steps, steps.round())
    assert len(steps.unique()) > 5
    # Of the six channels behind the passage, all are linear in the two that passed.
    released = by_position(passage(features).detach()) - passage.expand.bias[:, None]
    assert torch.linalg.matrix_rank(released.transpose(1, 2).flatten(0, 1)) == 2


def test_more_channels_than_there_are_are_refused(faces):
    config = MethodConfig(name="narrow", narrow=NarrowConfig(channels=99))
    with pytest.raises(ConfigError, match=r"method.narrow.channels.*at most"):
        unlearn(Net(), faces, "middle", method=config, engine=FAST, progress=False)
