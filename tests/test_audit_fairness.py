"""Parity: fairlearn's figures, intervals that cover, small groups marked, classes without people left out."""

import json
import warnings

import numpy as np
import pytest
import torch
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_helpers import column, feature_set
from efface.audit.fairness import Answers, _rates, _resampled, _widest, group_fidelity, parity
from efface.audit.intervals import Resampling, percentiles
from efface.data.schema import Column
from efface.errors import AuditError

HOW = Resampling(resamples=300)
BINARY = Column("y", ("no", "yes"))


def drawn(n=1200, seed=0, classes=2, groups=3):
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, classes, n), generator.integers(0, groups, n)
    wrong = generator.random(n) < 0.1 + 0.1 * z
    return Answers(
        np.where(wrong, generator.integers(0, classes, n), y),
        y,
        z,
        np.where(wrong, y, generator.integers(0, classes, n)),
    )


def by_metric(found):
    return {one.metric: one for one in found.differences}


def test_the_figures_are_fairlearns():
    asked = drawn()
    found = by_metric(parity(asked, column(3), BINARY, HOW))
    arguments = {"sensitive_features": asked.groups}
    for rows, name in ((asked.predictions, "value"), (asked.original, "original")):
        dp = demographic_parity_difference(asked.target, rows, **arguments)
        eo = equalized_odds_difference(asked.target, rows, **arguments)
        assert getattr(found["demographic_parity"], name).value == pytest.approx(dp)
        assert getattr(found["equalized_odds"], name).value == pytest.approx(eo)
        rates = [(asked.target == rows)[asked.groups == z].mean() for z in range(3)]
        assert getattr(found["accuracy"], name).value == pytest.approx(max(rates) - min(rates))
    assert found["accuracy"].change.value == pytest.approx(
        found["accuracy"].value.value - found["accuracy"].original.value
    )


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(2, 3))
@settings(max_examples=15, deadline=None)
def test_resampled_tables_agree_with_counting(seed, classes, groups):
    """One resample in which everybody counts once gives the rates by hand."""
    asked = drawn(300, seed, classes, groups)
    tables = _resampled(asked, (groups, classes), Resampling(resamples=20, seed=seed))
    assert tables.shape == (2, 20, groups, classes, classes)
    np.testing.assert_array_equal(tables.sum((2, 3, 4)), 300)
    # The same people are drawn for both models.
    np.testing.assert_array_equal(tables[0].sum(-1), tables[1].sum(-1))
    once = np.zeros((groups, classes, classes))
    np.add.at(once, (asked.groups, asked.target, asked.predictions), 1)
    np.testing.assert_allclose(tables[0].mean(0), once, atol=6 * np.sqrt(300 / 20) / 2)
    for c in range(classes):
        yes, said, z = asked.target == c, asked.predictions == c, asked.groups
        rates = {
            "selection": [said[z == g].mean() for g in range(groups)],
            "true_positive": [said[(z == g) & yes].mean() for g in range(groups)],
            "false_positive": [said[(z == g) & ~yes].mean() for g in range(groups)],
            "accuracy": [(asked.target == asked.predictions)[z == g].mean() for g in range(groups)],
        }
        for name, values in rates.items():
            np.testing.assert_allclose(_rates(name, once, c), values)


def test_of_more_classes_the_worst_against_the_rest_is_told():
    generator = np.random.default_rng(0)
    y, z = generator.integers(0, 4, 4000), generator.integers(0, 2, 4000)
    predictions = np.where((y == 2) & (z == 1), 3, y)
    target = Column("y", tuple("abcd"))
    found = by_metric(parity(Answers(predictions, y, z), column(2), target, HOW))
    assert found["equalized_odds"].target_class == "c"
    assert found["equalized_odds"].value.value == 1.0
    assert found["demographic_parity"].target_class in ("c", "d")
    assert abs(found["demographic_parity"].value.value - 0.25) < 0.03
    assert found["accuracy"].target_class is None
    assert found["accuracy"].original is found["accuracy"].change is None


def test_targets_of_very_many_classes_are_compared_by_accuracy_alone():
    asked = drawn(classes=30)
    found = parity(asked, column(3), Column("y", tuple(map(str, range(30)))), HOW)
    assert [one.metric for one in found.differences] == ["accuracy"]
    assert "accuracy alone" in found.notes[0]
    rates = [(asked.target == asked.predictions)[asked.groups == z].mean() for z in range(3)]
    assert found.differences[0].value.value == pytest.approx(max(rates) - min(rates))


def test_small_groups_are_marked_and_left_out_of_differences():
    asked = drawn()
    groups = asked.groups.copy()
    groups[:12] = 3
    predictions = asked.predictions.copy()
    predictions[:12] = 1 - asked.target[:12]
    found = parity(Answers(predictions, asked.target, groups), column(5), BINARY, HOW)
    assert [(group.group, group.n, group.small) for group in found.groups][-1] == ("z3", 12, True)
    assert len(found.groups) == 4  # nobody is of the fifth
    assert found.groups[-1].accuracy.value == 0.0
    assert by_metric(found)["accuracy"].groups == ("z0", "z1", "z2")
    assert by_metric(found)["accuracy"].value.value < 0.4
    assert found.notes == ("Fewer than 30 people: z3. Left out of the differences.",)


def test_a_group_without_positives_does_not_fake_a_difference():
    asked = drawn()
    target = np.where(asked.groups == 2, 0, asked.target)
    found = by_metric(parity(Answers(target, target, asked.groups), column(3), BINARY, HOW))
    assert found["equalized_odds"].value.value == 0.0
    assert found["equalized_odds"].groups == ("z0", "z1")
    only = parity(Answers(target * 0, target * 0, asked.groups), column(3), BINARY, HOW)
    assert "equalized_odds" not in by_metric(only)
    assert any("No equalized odds" in note for note in only.notes)


def test_the_change_is_paired():
    """The model after errs where it erred before, and on a few more: the interval of the change is narrow."""
    generator = np.random.default_rng(0)
    n = 4000
    y, z = generator.integers(0, 2, n), generator.integers(0, 2, n)
    before = np.where(generator.random(n) < 0.3, 1 - y, y)
    after = np.where((z == 1) & (generator.random(n) < 0.02), 1 - before, before)
    found = parity(Answers(after, y, z, before), column(2), BINARY, Resampling(resamples=500))
    group = found.groups[1]
    assert group.change.ci[1] - group.change.ci[0] < 0.4 * (group.accuracy.ci[1] - group.accuracy.ci[0])
    assert found.groups[0].change.value == 0.0 == found.groups[0].change.ci[0]


def test_intervals_cover_the_true_difference():
    """400 samples of two groups with accuracies 0.9 and 0.7."""
    generator, covered, both = np.random.default_rng(0), 0, {1: np.array([True, True])}
    for draw in range(400):
        y, z = generator.integers(0, 2, 500), generator.integers(0, 2, 500)
        right = generator.random(500) < np.where(z == 0, 0.9, 0.7)
        asked = Answers(np.where(right, y, 1 - y), y, z)
        (table,) = _resampled(asked, (2, 2), Resampling(resamples=300, seed=draw))
        low, high = percentiles(_widest("accuracy", table, both))
        covered += low <= 0.2 <= high
    assert 0.92 < covered / 400 <= 0.98


def test_from_features_and_as_json():
    generator = np.random.default_rng(0)
    n = 600
    y, z = generator.integers(0, 2, n), generator.integers(0, 2, n)
    z[:10] = -1
    right, none = np.eye(2)[y], np.eye(2)[np.zeros(n, int)]
    sets = [feature_set(generator.normal(size=(n, 2)), y, z, (200, 200, 200), logits) for logits in (right, none)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = group_fidelity(sets[0], sets[1], column(2), BINARY, how=HOW)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["n"] == 200
    assert values["groups"][0]["accuracy"]["value"] == 1.0
    assert values["groups"][0]["change"]["value"] > 0.3
    assert set(values["differences"]) == {"accuracy", "demographic_parity", "equalized_odds"}
    assert values["differences"]["accuracy"]["target_class"] is None


def test_errors():
    asked = drawn(60)
    with pytest.raises(AuditError, match="Nobody has both"):
        parity(Answers(asked.predictions, asked.target * 0 - 1, asked.groups), column(3), BINARY)
    empty = feature_set(np.zeros((60, 2)), asked.target, asked.groups, (20, 20, 20))
    bare = type(empty)(empty.features, empty.labels, {})
    with pytest.raises(AuditError, match="no model that answers"):
        group_fidelity(bare, None, column(3), BINARY)
    assert torch.is_tensor(empty.logits["test"])
