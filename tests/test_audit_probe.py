"""The cheap probe: finds what is there, is at the floor where nothing is; condensed features keep what varies."""

import numpy as np
import pytest
import torch

from audit_helpers import SIZES, column, feature_set
from efface.audit.intervals import Resampling
from efface.audit.probe import Probing, condense, difference, plain, read, some, view, with_labels
from efface.data.schema import Column
from efface.errors import AuditError

N = sum(SIZES)
QUICK = Probing(epochs=3, how=Resampling(resamples=300))


def drawn(leak, seed=0, classes=2):
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, N), generator.integers(0, classes, N)
    features = generator.normal(size=(N, 6))
    features[:, 1] += leak * z
    return feature_set(features, y, z)


def test_a_probe_reaches_the_bayes_accuracy_and_its_bits_are_below_the_entropy():
    found = read(drawn(3.0), column(2), QUICK)
    assert abs(found.correct.mean() - 0.933) < 0.02  # Φ(1.5)
    figure, bits = found.accuracy(QUICK.how), found.information(QUICK.how)
    assert figure.ci[0] < figure.value < figure.ci[1]
    assert bits.ci[0] < 0.760 < bits.ci[1]  # of two Gaussians three standard deviations apart
    assert 0.68 < bits.value < 0.84
    assert found.labels.shape == found.correct.shape == found.rows.shape == (1500,)


def test_a_probe_of_nothing_is_at_the_majority():
    found = read(drawn(0.0, classes=3), column(3), QUICK)
    low, high = found.accuracy(QUICK.how).ci
    assert low < 1 / 3 + 0.02 < high + 0.04
    assert abs(found.information(QUICK.how).value) < 0.02


def test_products_are_seen_by_the_perceptron_that_validation_picks():
    generator = np.random.default_rng(1)
    features, y = generator.normal(size=(N, 4)), generator.integers(0, 2, N)
    z = (features[:, 0] * features[:, 1] > 0).astype(int)
    found = read(feature_set(features, y, z), column(2), Probing(epochs=10))
    assert found.attacker == "mlp"
    assert found.correct.mean() > 0.85


def test_the_same_seed_reads_the_same_and_people_are_capped():
    features = drawn(1.0)
    one, two = (read(features, column(2), QUICK) for _ in range(2))
    np.testing.assert_array_equal(one.correct, two.correct)
    people = view(features, column(2), "train")
    few = some(people, 100, 3)
    assert len(few) == 100
    np.testing.assert_array_equal(few.labels, features.labels["train"]["z"][few.rows])
    assert (np.diff(few.rows) > 0).all()
    assert some(people, 5000, 0) is people


def test_the_progress_bar_comes_to_its_end():
    steps = []
    probing = Probing(epochs=3, tick=lambda _, n: steps.append(n))
    read(drawn(0.0), column(2), probing)
    assert sum(steps) == probing.steps


def test_condensed_features_keep_what_varies_and_nothing_of_the_order_is_lost():
    generator = np.random.default_rng(0)
    z, y = generator.integers(0, 2, N), generator.integers(0, 2, N)
    maps = generator.normal(size=(N, 20, 4, 4)).astype(np.float32)
    maps[:, 3] += 2 * z[:, None, None]
    features = feature_set(maps, y, z)
    small = condense(features, 40)
    assert small.shape == (40,)
    rows = small.features["train"].standardised(slice(0, SIZES[0]))
    torch.testing.assert_close(rows.mean(0), torch.zeros(40), atol=0.02, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(40), atol=0.02, rtol=0)
    assert read(small, column(2), QUICK).correct.mean() > 0.97
    again = condense(features, 40)
    np.testing.assert_array_equal(again.features["test"].stored, small.features["test"].stored)
    assert condense(features, 4000).shape == (20 * (3 + 16),)


def test_components_are_those_of_an_exact_decomposition():
    generator = np.random.default_rng(0)
    values = (generator.normal(size=(N, 5)) * [9, 7, 5, 0.1, 0.1]) @ np.linalg.qr(generator.normal(size=(5, 5)))[0]
    features = feature_set(values, np.zeros(N, int), np.zeros(N, int))
    small = condense(features, 3).features["train"].standardised(slice(0, SIZES[0])).numpy()
    train = features.features["train"].standardised(slice(0, SIZES[0])).numpy()
    left, *_ = np.linalg.svd(train - train.mean(0), full_matrices=False)
    overlap = np.abs(left[:, :3].T @ small) / np.sqrt(SIZES[0])
    np.testing.assert_allclose(overlap, np.eye(3), atol=0.02)


def test_images_are_flattened_not_pooled():
    generator = np.random.default_rng(0)
    features = feature_set(generator.random((N, 3, 6, 6)), np.zeros(N, int), np.zeros(N, int))
    assert condense(features).shape == (108,)


def test_labels_are_added_and_the_rest_is_kept():
    features = drawn(0.0)
    extra = {split: labels["z"] * 0 for split, labels in features.labels.items()}
    more = with_labels(features, "new", extra)
    assert set(more.labels["test"]) == {"y", "z", "new"}
    assert "new" not in features.labels["test"]
    assert more.features is features.features


def test_differences_are_paired():
    right = np.arange(2000) % 2 == 0
    wrong = right.copy()
    wrong[:200:2] = False
    found = difference(right, wrong, Resampling(resamples=500))
    assert found.value == pytest.approx(0.05)
    assert 0.03 < found.ci[0] < found.ci[1] < 0.07  # unpaired, it would reach from 0.02 to 0.08
    assert plain(found) == {"value": found.value, "ci": list(found.ci)}


def test_errors():
    features = drawn(0.0)
    unknown = with_labels(features, "z", {s: np.full(len(v["z"]), -1) for s, v in features.labels.items()})
    with pytest.raises(AuditError, match="Nobody in the train split has a label of 'z'"):
        read(unknown, column(2), QUICK)
    same = with_labels(features, "z", {s: np.zeros(len(v["z"]), int) for s, v in features.labels.items()})
    with pytest.raises(AuditError, match="of one class"):
        read(same, Column("z", ("a", "b")), QUICK)
