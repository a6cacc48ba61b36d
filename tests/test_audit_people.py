"""Training people: folds are disjoint and cover everybody; an encoder that knows its own people is seen to."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_helpers import SIZES, column, feature_set
from efface.audit.intervals import Resampling
from efface.audit.people import compare_training_people, joined, read_unseen, unseen_people
from efface.audit.probe import Probing
from efface.errors import AuditError

N = sum(SIZES)
QUICK = Probing(attackers=("linear",), epochs=2, how=Resampling(resamples=300))


def drawn(leak=2.0, own=0.0, seed=0, missing=0):
    """z in channel 0, and in channel 1 of the training people only, so many standard deviations apart."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, N), generator.integers(0, 3, N)
    features = generator.normal(size=(N, 4))
    features[:, 0] += leak * z
    features[: SIZES[0], 1] += own * z[: SIZES[0]]
    z[generator.permutation(N)[:missing]] = -1
    return feature_set(features, y, z)


@given(st.integers(2, 5), st.integers(0, 400), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_folds_are_disjoint_cover_everybody_once_and_are_stratified(folds, missing, seed):
    features = drawn(missing=missing)
    found = unseen_people(features, column(3), folds=folds, seed=seed)
    labels = features.labels["test"]["z"]
    assert sorted(np.concatenate([fold.audited.rows for fold in found])) == np.flatnonzero(labels >= 0).tolist()
    for fold in found:
        assert not set(fold.train.rows) & set(fold.audited.rows)
        assert len(fold.train) + len(fold.audited) == (labels >= 0).sum()
        np.testing.assert_array_equal(fold.audited.labels, labels[fold.audited.rows])
        np.testing.assert_array_equal(fold.train.labels, labels[fold.train.rows])
        assert fold.validation.source is features.features["validation"]
        for z in range(3):
            share = (fold.audited.labels == z).sum() - (labels == z).sum() / folds
            assert abs(float(share)) < 2


def test_unseen_people_teach_as_much_where_everybody_is_alike():
    found = compare_training_people(drawn(), column(3), QUICK)
    assert found.people == (1200, 750, 750)
    assert found.difference.ci[0] < 0 < found.difference.ci[1] + 0.01
    assert abs(found.own.value - found.unseen.value) < 0.04
    values = json.loads(json.dumps(found.to_dict()))
    assert values["unseen"]["people"] == 750
    assert values["difference"]["value"] == pytest.approx(found.unseen.value - found.matched.value)


def test_an_encoder_that_treats_its_own_people_otherwise_is_seen_to():
    """What the attacker learns of the encoder's people misleads: unseen people teach more."""
    found = compare_training_people(drawn(leak=1.5, own=4.0), column(3), QUICK)
    assert found.difference.ci[0] > 0.05
    assert found.unseen.value > found.own.value + 0.05


def test_readings_of_folds_are_put_in_order():
    features = drawn()
    found = read_unseen(features, column(3), QUICK)
    np.testing.assert_array_equal(found.rows, np.arange(SIZES[2]))
    np.testing.assert_array_equal(found.labels, features.labels["test"]["z"])
    assert found.correct.mean() > 0.6
    again = joined([found])
    assert again.correct.mean() == found.correct.mean()


def test_the_progress_bar_comes_to_its_end():
    steps = []
    probing = Probing(attackers=("linear",), epochs=2, tick=lambda _, n: steps.append(n))
    compare_training_people(drawn(), column(3), probing, folds=3)
    assert sum(steps) == 5 * probing.steps


def test_errors():
    with pytest.raises(AuditError, match=r"(?s)2 problems.*such as test, but got 'train'.*at least 2, but got 1"):
        unseen_people(drawn(), column(3), split="train", folds=1)
    few = drawn(missing=N - 3)
    with pytest.raises(AuditError, match=r"Nobody in the|too few for 5 folds"):
        unseen_people(few, column(3), folds=5)
