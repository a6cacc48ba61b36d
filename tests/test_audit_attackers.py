"""Attackers: calibrated on features whose Bayes accuracy is known; the same contract for each of them."""

import inspect
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import nn

from audit_helpers import SIZES, parts
from audit_helpers import views as plain_views
from efface.audit.attackers import ATTACKERS, Attacker, Budget, FeatureView, build_attacker, register
from efface.audit.attackers.base import fit_temperature
from efface.audit.attackers.linear import LinearAttacker, Problem, flattened, prior, solve
from efface.audit.attackers.mlp import PooledAttacker
from efface.audit.attackers.resnet import ResNetDecoder, SmallMapConvolution, lay_out
from efface.audit.attackers.training import Best, NetworkAttacker, one_cycle, shuffled
from efface.audit.calibration import build_problem
from efface.audit.store import stored_from_arrays
from efface.errors import AuditError

N = sum(SIZES)
FEW = (320, 160, 400)
SHAPES = ((6, 4, 4), (5, 6), (6,), (7, 3, 5))
SLOW = {"resnet18": (5, 6), "resnet18-mixed": (6,), "mlp-wide": (6,)}
"""Millions of weights: each reads one shape."""
READINGS = [
    (name, shape)
    for name in sorted(ATTACKERS)
    for shape in SHAPES
    if build_attacker(name).applies(shape, 2) is None and (name not in SLOW or shape == SLOW[name])
]
SETTLED = {"linear", "linear-raw", "least-squares", "knn", "trees", "output"}
CARDS = Path(__file__).parent.parent / "docs" / "attackers"


def views(features, z, classes, sizes=SIZES, answers=None):
    drawn = plain_views(features, z, classes, sizes)
    if answers is None:
        return drawn
    logits = {name: torch.from_numpy(answers[rows]).float() for name, rows in parts(sizes).items()}
    return {name: replace(view, logits=logits[name]) for name, view in drawn.items()}


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


@pytest.mark.parametrize(
    ("name", "problem", "share"),
    [
        ("linear", "gaussian", 0.97),
        ("linear-raw", "gaussian", 0.97),
        ("knn", "gaussian", 0.9),
        ("trees", "xor", 0.9),
        ("least-squares", "tiny-variance", 0.97),
        ("least-squares", "rare", 0.8),
    ],
)
def test_each_comes_near_the_best_of_all_attackers_where_it_should(name, problem, share):
    known = build_problem(problem)
    drawn = [known.draw(n, np.random.default_rng(seed)) for seed, n in enumerate((2000, 600, 2000))]
    names = ("train", "validation", "test")
    stored = stored_from_arrays({split: one.features for split, one in zip(names, drawn, strict=True)}, exact=True)
    train, validation, test = (
        FeatureView.of(stored[split], one.labels, known.classes) for split, one in zip(names, drawn, strict=True)
    )
    guess = build_attacker(name).fit(train, validation, Budget()).predict_logits(test).argmax(1).numpy()
    posterior = drawn[2].posterior
    regret = (posterior.max(1) - posterior[np.arange(len(guess)), guess]).mean()
    assert 1 - regret / (known.bayes - known.floor) > share


@pytest.mark.parametrize(("name", "shape"), READINGS, ids=str)
def test_a_leak_is_found_in_features_of_every_shape(name, shape):
    generator = np.random.default_rng(1)
    n = sum(FEW)
    z = generator.integers(0, 3, n)
    features = generator.normal(size=(n, *shape))
    # In one channel of maps and vectors, in the first token of tokens; and in the model's own answer.
    features[:, 0] += (z * 3.0)[:, None] if len(shape) == 2 else (z * 3.0).reshape(-1, *[1] * (len(shape) - 1))
    answers = generator.normal(size=(n, 2)) + np.stack([3.0 * z, -3.0 * z], 1)
    assert accuracy(name, views(features, z, 3, FEW, answers), epochs=3) > 0.6, "majority: 0.35, Bayes: 0.91 and more"


def test_convolutions_find_what_pooling_and_lines_lose():
    generator = np.random.default_rng(0)
    n = sum(FEW)
    z = generator.integers(0, 2, n)
    features = 0.5 * generator.normal(size=(n, 2, 4, 4))
    # An edge at a random place, rising or falling: its mean is 0, and no place tells.
    rows, columns = generator.integers(0, 4, (2, n))
    for height, step in ((5, 0), (-5, 1)):
        features[np.arange(n), 0, rows, (columns + np.where(z, step, 1 - step)) % 4] += height
    drawn = views(features, z, 2, FEW)
    assert accuracy("conv", drawn, epochs=6) > 0.85
    assert accuracy("resnet18", drawn, epochs=6) > 0.65, "a deep network needs more people, and finds it on few"
    assert accuracy("linear", drawn) < 0.6


def plain(name):
    """A shape that the attacker reads, and that costs little."""
    return (5,) if build_attacker(name).applies((5,), 2) is None else (3, 2, 2)


@cache
def planted(name, signal=1.0):
    """People whose features, and whose model's answer, tell z with Bayes accuracy Φ(signal) each."""
    features, z = gaussian(plain(name), signal, n=sum(FEW))
    answers = np.random.default_rng(1).normal(size=(len(z), 2))
    answers[:, 0] += (2 * z - 1) * signal
    return views(features, z, 2, FEW, answers), views(features, 1 - z, 2, FEW, answers)


@cache
def attacked(name, seed):
    """One fit, shared by the tests of the contract: the attack, its ticks, what it says, and the random state after."""
    drawn, ticks = planted(name)[0], []
    torch.manual_seed(5)
    budget = Budget(epochs=1, seed=seed, tick=lambda: ticks.append(1))
    fitted = build_attacker(name).fit(drawn["train"], drawn["validation"], budget)
    return fitted, len(ticks), fitted.predict_logits(drawn["test"]), torch.get_rng_state()


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_independent_features_give_the_floor(name):
    assert abs(accuracy(name, planted(name, 0.0)[0], epochs=1) - 0.5) < 4 * np.sqrt(0.25 / FEW[2])


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_the_same_seed_gives_the_same_attack_and_leaves_the_random_state(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    _, _, first, after = attacked(name, 1)
    assert torch.equal(before, after)
    drawn = planted(name)[0]
    torch.rand(7)
    again = build_attacker(name).fit(drawn["train"], drawn["validation"], Budget(epochs=1, seed=1))
    assert torch.equal(again.predict_logits(drawn["test"]), first)


@pytest.mark.parametrize("name", sorted(set(ATTACKERS) - SETTLED - set(SLOW)))
def test_another_seed_gives_another_attack(name):
    assert not torch.equal(attacked(name, 1)[2], attacked(name, 2)[2])


@pytest.mark.parametrize("name", sorted(SETTLED))
def test_the_seed_has_no_say_where_a_problem_has_one_solution(name):
    assert torch.equal(attacked(name, 1)[2], attacked(name, 2)[2])


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_validation_tells_the_truth_about_the_picked_epoch(name):
    fitted, ticks, _, _ = attacked(name, 1)
    drawn = planted(name)[0]["validation"]
    right = float((fitted.predict_logits(drawn).argmax(1) == drawn.labels).double().mean())
    # The ensemble's is cross-validated: below what it reaches on the people its weights were picked on.
    assert fitted.validation_accuracy == pytest.approx(right, abs=0.05 if name == "ensemble" else 1e-9)
    assert fitted.epoch >= 1
    assert fitted.warning is None
    assert ticks == 1


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_labels_of_the_audited_people_are_not_read(name):
    fitted, _, said, _ = attacked(name, 1)
    assert torch.equal(fitted.predict_logits(planted(name)[1]["test"]), said)


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_what_an_attack_costs_is_told_beforehand(name):
    attacker = build_attacker(name)
    for shape in [SLOW[name]] if name in SLOW else SHAPES:
        if attacker.applies(shape, 2) is None:
            few, many = (attacker.seconds(people, shape, 3, 12) for people in (1000, 16_000))
            assert 0 < few <= many < 3600


def test_attackers_say_where_they_have_nothing_to_read():
    for name in ("conv", "conv-raw"):
        assert "have no neighbouring places" in build_attacker(name).applies((6,))
        assert build_attacker(name).applies((6, 2, 2)) is None
    assert "are one" in build_attacker("tokens").applies((6, 1, 1))
    assert "none are given" in build_attacker("output").applies((6,), 0)
    features, z = gaussian((3,), 1.0, n=60)
    bare = views(features, z, 2, (30, 10, 20))
    with pytest.raises(AuditError, match="the view holds none"):
        build_attacker("output").fit(bare["train"], bare["validation"], Budget())


@pytest.mark.parametrize("name", sorted(ATTACKERS))
def test_every_attacker_has_a_card(name):
    cards = {path: path.read_text().split("\n")[0] for path in CARDS.glob("*.md")}
    assert any(heading.startswith("# ") and f"`{name}`" in heading for heading in cards.values()), name
    pointed = re.search(r"Card: docs/attackers/([\w-]+\.md)", inspect.getmodule(ATTACKERS[name]).__doc__)
    assert CARDS / pointed[1] in cards


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
    weight, bias = solve(problem, torch.zeros(3, 10), prior(problem.labels, 3), penalty, 300)
    oracle = LogisticRegression(C=1 / (penalty * SIZES[0]), tol=1e-8, max_iter=2000)
    oracle.fit(problem.inputs.numpy().astype(float), problem.labels.numpy())
    np.testing.assert_allclose(weight.numpy(), oracle.coef_, atol=2e-3)
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
    # From the second stage on maps are 2×2 and smaller: the same layers as matrix products.
    whole = [name for name in shapes if not name.startswith(("layer2", "layer3", "layer4")) or "conv" not in name]
    assert all(found[name] == shapes[name] for name in whole)
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
    class Stubborn(NetworkAttacker):
        name, learning_rate, weight_decay = "stubborn", 0.0, 0.0

        def build(self, shape, classes):
            return nn.Linear(shape[0], classes)

    features, z = gaussian((5,), 1.0, n=sum(FEW))
    drawn, ticks = views(features, z, 2, FEW), []
    fitted = Stubborn().fit(drawn["train"], drawn["validation"], Budget(30, tick=lambda: ticks.append(1)))
    # Half of the epochs without a new best.
    assert len(ticks) == 1 + 15
    assert fitted.epoch == 1


def test_the_best_epoch_has_the_best_accuracy_and_ties_go_to_the_loss():
    network, labels = nn.Linear(1, 2), torch.tensor([0, 1, 0, 1])
    best, right = Best({}), torch.eye(2)[labels]
    wrong = right.clone()
    wrong[0] = right[1]
    said = [3 * wrong, 2 * right, 1 * right, 5 * right, 9 * wrong]
    for epoch, logits in enumerate(said, 1):
        nn.init.constant_(network.weight, epoch)
        state = {name: value.clone() for name, value in network.state_dict().items()}
        best.update(epoch, state, logits, labels)
    assert (best.epoch, best.accuracy, best.improved) == (4, 1.0, 4)
    assert float(best.state["weight"][0, 0]) == 4, "weights of that epoch, not of the last"


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
    assert set(FeatureView.__dataclass_fields__) == {"source", "rows", "labels", "classes", "logits"}
