"""Intersections: the product as a column; its floors; what two attributes hide singly and tell together."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_helpers import SIZES, column, feature_set
from efface.audit.attackers import build_attacker
from efface.audit.attribute import Settings, audit_attribute
from efface.audit.intersections import intersect, product_floors, suggested_pairs, with_intersection
from efface.audit.probe import Probing, read, with_labels
from efface.config import AuditConfig
from efface.data.schema import Column, Schema
from efface.errors import AuditError

N = sum(SIZES)
A, B = Column("a", ("x", "y")), Column("b", ("u", "v", "w"))


def split_up(values):
    ends = np.cumsum([0, *SIZES])
    return {s: values[i:j] for s, i, j in zip(("train", "validation", "test"), ends[:-1], ends[1:], strict=True)}


@given(st.integers(0, 10**6), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_every_kept_class_is_its_pair_and_has_enough_people(seed, least):
    generator = np.random.default_rng(seed)
    a, b = (
        generator.choice([-1, 0, 1], 400, p=[0.1, 0.6, 0.3]),
        generator.choice([-1, 0, 1, 2], 400, p=[0.1, 0.6, 0.2, 0.1]),
    )
    labels = {"train": {"a": a[:250], "b": b[:250]}, "test": {"a": a[250:], "b": b[250:]}}
    try:
        found = intersect(A, B, labels, least)
    except AuditError as error:
        assert "Fewer than two joint classes" in str(error)  # noqa: PT017
        return
    kept = 0
    for split, codes in found.labels.items():
        for place, name in enumerate(found.column.classes):
            one, two = name.split(" · ")
            is_pair = (labels[split]["a"] == A.classes.index(one)) & (labels[split]["b"] == B.classes.index(two))
            np.testing.assert_array_equal(codes == place, is_pair)
            assert is_pair.sum() >= least
            kept += int(is_pair.sum())
    known = int(((a >= 0) & (b >= 0)).sum())
    assert kept + sum(found.left_out.values()) == known


def test_the_product_is_audited_like_any_attribute():
    """h tells a XOR b: nothing of a, nothing of b, and one bit of the product."""
    generator = np.random.default_rng(0)
    a, b, y = (generator.integers(0, 2, N) for _ in range(3))
    features = generator.normal(size=(N, 4))
    features[:, 0] += 6 * (a ^ b)
    found = with_labels(with_labels(feature_set(features, y, a), "a", split_up(a)), "b", split_up(b))
    other = Column("b", ("u", "v"))
    product = intersect(A, other, found.labels)
    features = with_intersection(found, product)
    assert product.column.name == "a × b"
    probing = Probing(attackers=("linear",), epochs=2)
    assert abs(read(features, A, probing).correct.mean() - 0.5) < 0.05
    assert read(features, product.column, probing).correct.mean() > 0.45
    config = AuditConfig.model_validate({"attackers": ("linear",), "epochs": 3, "resamples": 200})
    entry = audit_attribute(features, None, product.column, Settings(config, [build_attacker("linear")], "y"))
    assert entry["verdict"] == "leaks"
    assert entry["floors"]["label"] < 0.3


def test_floors_of_a_product():
    a, b = np.arange(600) % 2, np.arange(600) // 2 % 3
    y = a.copy()
    labels = {"a": a, "b": b, "y": y}
    product = intersect(A, B, {"test": labels})
    found = product_floors(product, labels, "y")
    assert found.product.chance == found.product.majority == pytest.approx(1 / 6)
    assert found.product.label == pytest.approx(1 / 3)  # y is a
    assert found.given == {"a": pytest.approx(1 / 3), "b": pytest.approx(1.0)}
    assert found.interaction_bits == 0.0
    tied = product_floors(intersect(A, Column("b", ("u", "v")), {"test": {"a": a, "b": a}}), {**labels, "b": a}, "y")
    assert tied.interaction_bits == pytest.approx(1.0)
    assert json.loads(json.dumps(found.to_dict()))["given"]["a"] == pytest.approx(1 / 3)


def test_what_is_left_out_is_counted():
    a = np.repeat([0, 1], [300, 300])
    b = np.r_[np.zeros(300, int), np.zeros(290, int), np.ones(10, int)]
    labels = {"train": {"a": a, "b": b}}
    found = intersect(A, B, labels)
    assert found.left_out == {"y · v": 10}
    values = json.loads(json.dumps(found.to_dict()))
    assert values == {
        "name": "a × b",
        "parts": ["a", "b"],
        "classes": ["x · u", "y · u"],
        "n": {"train": 590},
        "left_out": {"y · v": 10},
    }


def test_pairs_are_suggested_smallest_first_and_of_the_attributes_before_others():
    def named(name, classes):
        return Column(name, tuple(f"{name}{i}" for i in range(classes)))

    schema = Schema(
        named("y", 2), (named("race", 5), named("sex", 2), named("job", 20)), (named("hat", 2), named("age", 9))
    )
    pairs = [(one.name, two.name) for one, two in suggested_pairs(schema, 5)]
    assert pairs == [("race", "sex"), ("sex", "hat"), ("race", "hat"), ("sex", "age")]
    assert suggested_pairs(schema, 1) == suggested_pairs(schema, 5)[:1]
    assert suggested_pairs(Schema(named("y", 2), (named("z", 2),))) == []


def test_errors():
    labels = {"train": {"a": np.zeros(100, int), "b": np.zeros(100, int)}}
    with pytest.raises(AuditError, match="another attribute than the first"):
        intersect(A, A, labels)
    with pytest.raises(AuditError, match="No labels of 'z'"):
        intersect(A, column(2), labels)
    with pytest.raises(AuditError, match="Fewer than two joint classes of 'a' and 'b' have 30 people"):
        intersect(A, B, labels)
