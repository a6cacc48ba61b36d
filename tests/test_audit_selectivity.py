"""Selectivity: what survives is told as a share with its interval; columns are made fit for probing, or left out."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_helpers import SIZES, column, feature_set
from efface.audit.intervals import Resampling
from efface.audit.probe import Probing, Reading, with_labels
from efface.audit.selectivity import coarsened, overlap, selectivity, survival
from efface.data.schema import Column

N = sum(SIZES)
QUICK = Probing(attackers=("linear",), epochs=2, how=Resampling(resamples=300))


def split_up(values):
    ends = np.cumsum([0, *SIZES])
    return {s: values[a:b] for s, a, b in zip(("train", "validation", "test"), ends[:-1], ends[1:], strict=True)}


def drawn(strengths, seed=0):
    """z and two more columns, each in a channel of its own, so many standard deviations apart."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.integers(0, 2, N) for name in strengths}
    features = generator.normal(size=(N, len(strengths)))
    for place, (name, strength) in enumerate(strengths.items()):
        features[:, place] += strength * columns[name]
    found = feature_set(features, generator.integers(0, 2, N), columns["z"])
    for name, values in columns.items():
        found = with_labels(found, name, split_up(values))
    return found


def test_shares_tell_what_survived_and_what_did_not():
    after, before = drawn({"z": 0.0, "hat": 3.0, "age": 0.0}), drawn({"z": 3.0, "hat": 3.0, "age": 3.0})
    others = [Column("hat", ("no", "yes")), Column("age", ("young", "old"))]
    found = selectivity(after, before, others, [column(2)], QUICK)
    hat, age = found.columns
    assert hat.share.ci[0] > 0.95
    assert abs(age.share.value) < 0.12
    assert age.share.ci[0] < 0.1
    assert hat.raw_share.value == pytest.approx(hat.accuracy.value / hat.original.value)
    assert hat.share.value == pytest.approx((hat.accuracy.value - hat.majority) / (hat.original.value - hat.majority))
    assert hat.overlap < 0.01
    assert found.median_share == pytest.approx((hat.share.value + age.share.value) / 2)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["columns"][0]["attackers"] == ["linear", "linear"]
    assert values["skipped"] == {}


def test_columns_kept_on_request_are_marked_and_left_out_of_the_median():
    after, before = drawn({"z": 0.0, "hat": 3.0, "age": 0.0}), drawn({"z": 3.0, "hat": 3.0, "age": 3.0})
    others = [Column("hat", ("no", "yes")), Column("age", ("young", "old"))]
    found = selectivity(after, before, others, [column(2)], QUICK, preserved=["hat"])
    assert [one.preserved for one in found.columns] == [True, False]
    assert found.median_share == found.columns[1].share.value
    assert selectivity(after, before, others, [column(2)], QUICK, preserved=["hat", "age"]).median_share is None


def test_where_the_original_knows_nothing_there_is_no_share():
    sets = [drawn({"z": 3.0, "hat": 0.0}, seed) for seed in (0, 0)]
    (hat,) = selectivity(*sets, [Column("hat", ("no", "yes"))], [column(2)], QUICK).columns
    assert hat.share is None
    assert hat.raw_share.value == pytest.approx(1.0)
    assert selectivity(*sets, [], [column(2)], QUICK).median_share is None


def reading(correct, labels):
    return Reading("a", 0.5, labels, correct, np.zeros(len(labels)), np.arange(len(labels)))


def test_the_interval_covers_the_true_share():
    """300 audits of 400 people: after 0.7, before 0.8, majority 0.5, so the share is 2/3."""
    generator, covered = np.random.default_rng(0), 0
    for draw in range(300):
        labels = generator.integers(0, 2, 400)
        labels[0] = 0
        before = generator.random(400) < 0.8
        after = np.where(generator.random(400) < 0.9, before, generator.random(400) < 0.1 * 2)
        # P(after) = 0.9 · 0.8 + 0.1 · 0.2 = 0.74
        probing = Probing(how=Resampling(resamples=400, seed=draw))
        found = survival(reading(after, labels), reading(before, labels), column(2), 0.0, probing)
        low, high = found.share.ci
        covered += low <= (0.74 - 0.5) / (0.8 - 0.5) <= high
    assert 0.91 < covered / 300 <= 1.0


def test_overlap_is_the_information_share_and_takes_the_largest():
    z = np.arange(1000) % 4
    features = with_labels(
        drawn({"z": 0.0}),
        "w",
        {s: np.zeros(n, int) for s, n in zip(("train", "validation", "test"), SIZES, strict=True)},
    )
    features = with_labels(features, "z", {"train": z, "validation": z, "test": z})
    features = with_labels(features, "w", {"train": z, "validation": z, "test": z * 0})
    columns = [Column("w", ("a", "b")), Column("z", tuple("abcd"))]
    assert overlap(features, z // 2, columns, "test", 2) == 1.0
    assert overlap(features, z // 2, columns[:1], "test", 2) == 0.0
    halves = np.where(np.arange(1000) % 8 < 4, z // 2, 1 - z // 2)
    assert overlap(features, halves, columns, "test", 2) < 1e-6


@given(st.lists(st.integers(0, 99), min_size=300, max_size=600), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_numbers_are_cut_in_order_into_groups_that_name_their_range(ages, missing):
    labels = np.array(ages)
    labels[:missing] = -1
    found, why = coarsened(Column("age", tuple(map(str, range(100)))), {"train": labels, "test": labels})
    if found is None:
        assert "2 are needed" in why
        return
    chosen, codes = found
    assert chosen.n_classes <= 5
    known = labels >= 0
    assert (codes["train"] >= 0).tolist() == known.tolist()
    order = np.argsort(labels[known], kind="stable")
    assert (np.diff(codes["train"][known][order]) >= 0).all()
    for place, name in enumerate(chosen.classes):
        ends = [int(part) for part in name.split("–")]
        inside = labels[(codes["train"] == place)]
        assert ((inside >= ends[0]) & (inside <= ends[-1])).all()


def test_rare_classes_become_one_and_hopeless_columns_are_left_out():
    generator = np.random.default_rng(0)
    labels = generator.choice(6, 1000, p=[0.5, 0.43, 0.02, 0.02, 0.02, 0.01])
    (chosen, codes), note = coarsened(Column("job", tuple("abcdef")), {"train": labels, "test": labels})
    assert chosen.classes == ("a", "b", "other")
    assert note.startswith("4 classes of fewer than 30")
    np.testing.assert_array_equal(codes["test"], np.minimum(labels, 2))
    single = {"train": np.zeros(100, int), "test": np.zeros(100, int)}
    assert coarsened(Column("c", ("a", "b")), single) == (
        None,
        "1 class(es) among the training people; at least 2 are needed.",
    )
    many = {"train": np.arange(3000) % 40, "test": np.arange(40)}
    assert "too many to probe" in coarsened(Column("c", tuple(f"n{i}" for i in range(40))), many)[1]
    nobody = {"train": np.arange(100) % 2, "test": np.full(10, -1)}
    assert coarsened(Column("c", ("a", "b")), nobody)[1] == "Nobody in the test split has a label."


def test_columns_left_out_are_told_with_the_reason():
    features = drawn({"z": 0.0})
    features = with_labels(features, "empty", split_up(np.full(N, -1)))
    steps = []
    probing = Probing(attackers=("linear",), epochs=2, tick=lambda _, n: steps.append(n))
    found = selectivity(features, features, [Column("empty", ("a", "b"))], [], probing)
    assert found.columns == ()
    assert "2 are needed" in found.skipped["empty"]
    assert sum(steps) == 2 * probing.steps
