"""The attacker `least-squares`: its solution, and what only it finds."""

import numpy as np
import pytest
import torch

from efface.audit.attackers import Budget, FeatureView, build_attacker
from efface.audit.attackers.least_squares import LeastSquaresAttacker
from efface.audit.store import stored_from_arrays


def views(features, labels, classes=2, exact=True):
    stored = stored_from_arrays(features, exact=exact)
    return {split: FeatureView.of(stored[split], labels[split], classes) for split in features}


def hidden(n, seed, small):
    """z lies in the difference of two features, ``small`` times their common part, among others that say nothing."""
    random = np.random.default_rng(seed)
    z = random.integers(0, 2, n)
    shared, told = random.standard_normal(n), small * ((2 * z - 1) + 0.5 * random.standard_normal(n))
    rest = random.standard_normal((n, 10))
    return np.column_stack([shared + told, shared - told, rest]).astype(np.float32), z


def split_of(draw, sizes=(2000, 600, 600)):
    made = {
        name: draw(n, seed) for seed, (name, n) in enumerate(zip(("train", "validation", "test"), sizes, strict=True))
    }
    return {name: one[0] for name, one in made.items()}, {name: one[1] for name, one in made.items()}


def accuracy(fitted, view):
    return float((fitted.predict_logits(view).argmax(1) == view.labels).double().mean())


def test_it_finds_what_lies_in_a_direction_of_little_variance():
    data = views(*split_of(lambda n, seed: hidden(n, seed, small=3e-3)))
    fitted = build_attacker("least-squares").fit(data["train"], data["validation"], Budget())
    assert accuracy(fitted, data["test"]) > 0.93, "Bayes: 0.977"
    assert fitted.epoch > 5, "a weak ridge was needed"
    probe = build_attacker("linear").fit(data["train"], data["validation"], Budget())
    assert accuracy(probe, data["test"]) < 0.75, "a penalised probe misses it: if it does not, one attacker would do"


def test_rounding_to_bf16_would_hide_it():
    data = views(*split_of(lambda n, seed: hidden(n, seed, small=3e-4)), exact=False)
    fitted = build_attacker("least-squares").fit(data["train"], data["validation"], Budget())
    assert accuracy(fitted, data["test"]) < 0.7
    exact = views(*split_of(lambda n, seed: hidden(n, seed, small=3e-3)))
    fitted = build_attacker("least-squares").fit(exact["train"], exact["validation"], Budget())
    assert accuracy(fitted, exact["test"]) > 0.93


def line_up(n, seed):
    """Three classes in a row along one direction, among others that say nothing."""
    random = np.random.default_rng(seed)
    z = random.integers(0, 3, n)
    features = random.standard_normal((n, 6))
    features[:, 1] += 3.0 * z
    return features.astype(np.float32), z


def only(ridge):
    attacker = LeastSquaresAttacker()
    attacker.ridges = (ridge,)
    return attacker


def test_for_two_classes_the_direction_is_that_of_least_squares():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, labels = split_of(lambda n, seed: hidden(n, seed, small=0.3), (400, 100, 100))
    data = views(features, labels)
    fitted = only(0.1).fit(data["train"], data["validation"], Budget())
    inputs = StandardScaler().fit(features["train"]).transform(features["train"])
    oracle = Ridge(alpha=0.1 * 400).fit(inputs, labels["train"]).coef_
    ours = (fitted.weight[:, 1] - fitted.weight[:, 0]).numpy()
    assert ours @ oracle / np.linalg.norm(ours) / np.linalg.norm(oracle) == pytest.approx(1, abs=1e-5)


def test_the_logits_are_those_of_gaussians_with_one_covariance():
    from scipy.stats import multivariate_normal

    features, labels = split_of(line_up, (400, 100, 100))
    data = views(features, labels, classes=3)
    fitted = only(0.1).fit(data["train"], data["validation"], Budget())
    mean, std = features["train"].mean(0), features["train"].std(0)
    inputs, asked = (((features[name] - mean) / std).astype(float) for name in ("train", "test"))
    groups = [inputs[labels["train"] == z] for z in range(3)]
    within = sum(len(group) * np.cov(group.T, bias=True) for group in groups) / 400 + 0.1 * np.eye(6)
    wanted = np.stack([multivariate_normal(g.mean(0), within).logpdf(asked) + np.log(len(g) / 400) for g in groups], 1)
    said = fitted.predict_logits(data["test"]) * fitted.temperature
    torch.testing.assert_close(
        said.log_softmax(1), torch.from_numpy(wanted).log_softmax(1).float(), atol=2e-3, rtol=2e-3
    )


def test_a_class_between_two_others_is_named():
    data = views(*split_of(line_up), classes=3)
    fitted = build_attacker("least-squares").fit(data["train"], data["validation"], Budget())
    assert accuracy(fitted, data["test"]) > 0.88, "Bayes: 0.911; without the class between: 0.67"
    assert 0.2 < float((fitted.predict_logits(data["test"]).argmax(1) == 1).float().mean()) < 0.5


def test_noise_stays_at_the_majority():
    def draw(n, seed):
        random = np.random.default_rng(seed + 10)
        return random.standard_normal((n, 6, 4, 4)).astype(np.float32), (random.random(n) < 0.7).astype(int)

    data = views(*split_of(draw))
    fitted = build_attacker("least-squares").fit(data["train"], data["validation"], Budget())
    majority = float(data["test"].labels.double().mean())
    assert accuracy(fitted, data["test"]) == pytest.approx(majority, abs=0.03)


def test_one_class_in_training_is_no_error():
    data = views(
        *split_of(
            lambda n, seed: (np.random.default_rng(seed).standard_normal((n, 5)).astype(np.float32), np.zeros(n, int)),
            (50, 20, 20),
        )
    )
    fitted = build_attacker("least-squares").fit(data["train"], data["validation"], Budget())
    assert accuracy(fitted, data["test"]) == 1.0
