"""Attackers: calibrated on features whose Bayes accuracy is known; the same contract for each of them."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import nn

from audit_helpers import SIZES, parts, views
from efface.audit.attackers import ATTACKERS, Attacker, Budget, FeatureView, build_attacker, register
from efface.audit.attackers.base import fit_temperature
from efface.audit.attackers.linear import LinearAttacker, Problem, flattened, prior, solve
from efface.audit.attackers.mlp import PooledAttacker
from efface.audit.attackers.resnet import ResNetDecoder, SmallMapConvolution, lay_out
from efface.audit.attackers.training import one_cycle, shuffled
from efface.audit.store import stored_from_arrays
from efface.errors import AuditError

N = sum(SIZES)
FEW = (500, 200, 400)


def accuracy(name, drawn, epochs=10):
    fitted = build_attacker(name).fit(drawn["train"], drawn["validation"], Budget(epochs=epochs))
    return float((fitted.predict_logits(drawn["test"]).argmax(1) == drawn["test"].labels).float().mean())


def gaussian(shape, signal, seed=0, n=N):
    """Noise, in which the first number of each person tells z with Bayes accuracy Φ(signal)."""
    generator = np.random.default_rng(seed)
    z = generator.integers(0, 2, n)
    features = generator.normal(size=(n, *shape))
    features.reshape(n, -1)[:, 0] += (2 * z - 1) * signal
    return features, z


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_gaussian_features_are_read_as_well_as_can_be(name):
    features, z = gaussian((8,), 1.2)
    bayes = norm.cdf(1.2)
    assert bayes - 0.035 < accuracy(name, views(features, z, 2)) < bayes + 0.035


def test_xor_is_found_by_the_perceptron_and_by_no_line():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2, (N, 2))
    features = generator.normal(size=(N, 6))
    features[:, :2] += (2 * bits - 1) * 2.5
    drawn = views(features, bits[:, 0] ^ bits[:, 1], 2)
    p = norm.cdf(2.5)
    assert accuracy("mlp", drawn) > p * p + (1 - p) ** 2 - 0.04
    assert abs(accuracy("linear", drawn) - 0.5) < 0.06


@pytest.mark.parametrize("name", sorted(ATTACKERS))
@pytest.mark.parametrize("shape", [(6, 4, 4), (5, 6), (6,), (7, 3, 5)], ids=str)
def test_a_leak_is_found_in_features_of_every_shape(name, shape):
    generator = np.random.default_rng(1)
    n = sum(FEW)
    z = generator.integers(0, 3, n)
    features = generator.normal(size=(n, *shape))
    # In one channel of maps and vectors, in the first token of tokens.
    features[:, 0] += (z * 3.0)[:, None] if len(shape) == 2 else (z * 3.0).reshape(-1, *[1] * (len(shape) - 1))
    assert accuracy(name, views(features, z, 3, FEW), epochs=3) > 0.8


def test_the_resnet_finds_what_pooling_and_lines_lose():
    generator = np.random.default_rng(0)
    n = sum(FEW)
    z = generator.integers(0, 2, n)
    features = 0.5 * generator.normal(size=(n, 2, 6, 6))
    # An edge at a random place, rising or falling: its mean is 0, and no place tells.
    rows, columns = generator.integers(0, 6, (2, n))
    for height, step in ((5, 0), (-5, 1)):
        features[np.arange(n), 0, rows, (columns + np.where(z, step, 1 - step)) % 6] += height
    drawn = views(features, z, 2, FEW)
    assert accuracy("resnet18", drawn, epochs=5) > 0.75
    assert accuracy("linear", drawn) < 0.62


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_independent_features_give_the_floor(name):
    features, z = gaussian((8,), 0.0, n=sum(FEW))
    assert abs(accuracy(name, views(features, z, 2, FEW), epochs=2) - 0.5) < 4 * np.sqrt(0.25 / FEW[2])


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_the_same_seed_gives_the_same_attack_and_leaves_the_random_state(name):
    features, z = gaussian((4, 4, 4), 1.0, n=sum(FEW))
    drawn = views(features, z, 2, FEW)

    def attack(seed):
        fitted = build_attacker(name).fit(drawn["train"], drawn["validation"], Budget(epochs=1, seed=seed))
        return fitted.predict_logits(drawn["test"])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = attack(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(attack(1), first)
    if name != "linear":  # a convex problem: the seed has no say
        assert not torch.equal(attack(2), first)


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_validation_tells_the_truth_about_the_picked_epoch(name):
    features, z = gaussian((5,), 1.0, n=sum(FEW))
    drawn = views(features, z, 2, FEW)
    ticks = []
    budget = Budget(epochs=3, tick=lambda: ticks.append(1))
    fitted = build_attacker(name).fit(drawn["train"], drawn["validation"], budget)
    guess = fitted.predict_logits(drawn["validation"]).argmax(1)
    assert fitted.validation_accuracy == pytest.approx(float((guess == drawn["validation"].labels).double().mean()))
    assert fitted.epoch >= 1
    assert fitted.warning is None
    assert len(ticks) <= 3


def test_labels_of_the_audited_people_are_not_read():
    features, z = gaussian((5,), 1.0, n=sum(FEW))
    drawn = views(features, z, 2, FEW)
    other = views(features, 1 - z, 2, FEW)
    for name in ATTACKERS:
        fitted = build_attacker(name).fit(drawn["train"], drawn["validation"], Budget(epochs=1))
        assert torch.equal(fitted.predict_logits(drawn["test"]), fitted.predict_logits(other["test"]))


def test_people_without_a_label_are_left_out():
    features, z = gaussian((5,), 1.0)
    z = z.copy()
    z[::3] = -1
    drawn = views(features, z, 2)
    assert len(drawn["test"]) == (z[parts()["test"]] >= 0).sum()
    assert int(drawn["train"].labels.min()) == 0
    np.testing.assert_array_equal(drawn["train"].rows, np.flatnonzero(z[parts()["train"]] >= 0))
    assert accuracy("linear", drawn) > norm.cdf(1.0) - 0.05


@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.01])
def test_the_linear_probe_equals_scikit_learn(penalty):
    generator = np.random.default_rng(0)
    z = generator.integers(0, 3, N)
    features = generator.normal(size=(N, 10)) + 0.8 * np.eye(3)[z] @ generator.normal(size=(3, 10))
    problem = Problem.of(views(features, z, 3)["train"], torch.arange(SIZES[0]), torch.device("cpu"))
    weight, bias = solve(problem, torch.zeros(10, 3), prior(problem.labels, 3), penalty, 300)
    oracle = LogisticRegression(C=1 / (penalty * SIZES[0]), tol=1e-8, max_iter=2000)
    oracle.fit(problem.inputs.numpy().astype(float), problem.labels.numpy())
    np.testing.assert_allclose(weight.T.numpy(), oracle.coef_, atol=2e-3)
    np.testing.assert_allclose((bias - bias.mean()).numpy(), oracle.intercept_ - oracle.intercept_.mean(), atol=2e-3)


def test_the_linear_probe_in_bf16_agrees_with_float32(monkeypatch):
    features, z = gaussian((6, 4, 4), 1.5)
    exact = accuracy("linear", views(features, z, 2))
    monkeypatch.setattr("efface.audit.attackers.linear.EXACT", 0)
    assert abs(accuracy("linear", views(features, z, 2)) - exact) < 0.015


def test_wide_maps_are_averaged_until_they_fit():
    assert flattened(torch.zeros(1, 256, 32, 32)).shape == (1, 4096)
    assert flattened(torch.zeros(1, 9000)).shape == (1, 9000)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 2), (4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_quick_convolutions_of_small_maps_are_convolutions(size, stride):
    layer = nn.Conv2d(5, 7, 3, stride, 1, bias=False)
    maps = torch.randn(3, 5, *size)
    torch.testing.assert_close(SmallMapConvolution(layer, size)(maps), layer(maps), atol=1e-5, rtol=1e-5)


def test_the_resnet_with_quick_convolutions_is_resnet18():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours = ResNetDecoder(6, (8, 8), 3).eval()
    theirs = resnet18(num_classes=3)
    theirs.conv1, theirs.maxpool = nn.Conv2d(6, 64, 3, 1, 1, bias=False), nn.Identity()
    shapes = {name: value.shape for name, value in theirs.named_parameters()}
    found = {name: value.shape for name, value in ours.network.named_parameters()}
    assert set(found) == set(shapes)
    assert all(found[name] == shapes[name] for name in shapes if not name.startswith(("layer3", "layer4")))
    assert ours(torch.randn(2, 6, 8, 8)).shape == (2, 3)


def test_a_class_token_stands_beside_every_patch():
    tokens = torch.randn(2, 10, 4)
    maps = lay_out(tokens)
    assert maps.shape == (2, 8, 3, 3)
    torch.testing.assert_close(maps[:, :4, 1, 2], tokens[:, 1 + 5])
    torch.testing.assert_close(maps[:, 4:, 2, 0], tokens[:, 0])


def test_one_cycle_rises_and_falls():
    rates = [one_cycle(i / 100) for i in range(101)]
    assert max(rates) == 1
    assert rates.index(1) == 20
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_batches_are_full_and_nobody_twice():
    seen = torch.cat(list(shuffled(50, 16)))
    assert len(seen) == 48
    assert len(set(seen.tolist())) == 48


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(true):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.08)


def test_a_loss_that_is_not_finite_stops_the_attacker_with_a_warning(monkeypatch):
    features, z = gaussian((5,), 1.0)
    drawn = views(features, z, 2)
    monkeypatch.setattr(PooledAttacker, "learning_rate", float("inf"))
    fitted = PooledAttacker().fit(drawn["train"], drawn["validation"], Budget(epochs=3))
    assert "the loss was not finite" in fitted.warning
    assert torch.isfinite(fitted.predict_logits(drawn["test"])).all()


def test_an_attacker_that_stops_improving_stops():
    features, z = gaussian((100,), 0.0, n=sum(FEW))
    drawn = views(features, z, 2, FEW)
    ticks = []
    fitted = PooledAttacker().fit(drawn["train"], drawn["validation"], Budget(30, tick=lambda: ticks.append(1)))
    # Half of the epochs without a new best.
    assert 15 <= len(ticks) < 30
    assert fitted.epoch <= len(ticks)


def test_unknown_and_duplicate_attackers_are_refused():
    with pytest.raises(AuditError, match=r"Unknown attacker 'resnet'. Did you mean 'resnet18'\?.*efface ls attackers"):
        build_attacker("resnet")
    with pytest.raises(AuditError, match="a name that no attacker has yet, but got 'linear'"):
        register(LinearAttacker)


def test_a_new_attacker_is_registered(monkeypatch):
    class Mine(LinearAttacker):
        name = "mine"

    monkeypatch.delitem(ATTACKERS, "mine", raising=False)
    assert register(Mine) is Mine
    assert isinstance(build_attacker("mine"), Attacker)
    del ATTACKERS["mine"]


def test_standardised_features_have_mean_0_and_spread_1_per_channel():
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(400, 3, 4, 4)) * np.array([1, 1e-3, 50])[:, None, None]
    maps += np.array([0, 1000, 3])[:, None, None]
    stored = stored_from_arrays({"train": maps.astype(np.float32)})["train"]
    x = stored.standardised(slice(0, 400))
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 2, 3), correction=0), 1, atol=1e-4)
    # bf16 alone would round the second channel to nothing. (float32 keeps 1000 ± 0.001 to 6 %.)
    spread = (maps[:, 1].astype(np.float32) - np.float32(1000)) / 1e-3
    assert np.corrcoef(x[:, 1].flatten(), spread.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(stored.read(np.arange(5)), maps[:5], rtol=0.01, atol=0.02)


def test_constant_channels_do_no_harm():
    stored = stored_from_arrays({"train": np.full((20, 3), 7.0, np.float32)})["train"]
    assert torch.isfinite(stored.standardised(slice(0, 20))).all()


def test_a_view_is_all_that_attackers_see():
    assert set(FeatureView.__dataclass_fields__) == {"source", "rows", "labels", "classes"}
