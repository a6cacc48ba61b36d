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


def test_the_solution_is_scikit_learns():
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, labels = split_of(lambda n, seed: hidden(n, seed, small=0.3), (400, 100, 100))
    data = views(features, labels)
    attacker = LeastSquaresAttacker()
    attacker.ridges = (0.1,)
    fitted = attacker.fit(data["train"], data["validation"], Budget())
    inputs = StandardScaler().fit(features["train"])
    told = np.eye(2)[labels["train"]]
    oracle = Ridge(alpha=0.1 * 400).fit(inputs.transform(features["train"]), told)
    guesses = fitted.predict_logits(data["test"]) * fitted.temperature
    wanted = torch.from_numpy(oracle.predict(inputs.transform(features["test"]))).clamp_min(1e-4).log()
    torch.testing.assert_close(guesses, wanted.float(), atol=2e-3, rtol=2e-3)


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
