"""What columns kept on request tell of an attribute by themselves: exact where it is known, and in every audit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from audit_helpers import SIZES, column, dataset, feature_set, network, parts
from efface.audit import audit
from efface.audit.attack import NO_TARGET, Settings
from efface.audit.attackers import build_attacker
from efface.audit.conclude import attack_all
from efface.audit.kept import told_by_kept
from efface.audit.probe import with_labels
from efface.audit.subject import Subject
from efface.config import AuditConfig
from efface.data.dataset import build_schema
from efface.data.schema import Column

N = sum(SIZES)
HOW = Settings(AuditConfig(attackers=("linear",), epochs=1, resamples=300), [], "y")
HAT, SHOE = Column("hat", ("no", "yes")), Column("shoe", ("a", "b", "c"))


def people(seed=0, agree=0.8, missing=0.0):
    """z independent of y, a hat that is z for a share of people, a shoe that tells nothing; features of noise."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, N), generator.integers(0, 2, N)
    hat = np.where(generator.random(N) < agree, z, 1 - z)
    hat = np.where(generator.random(N) < missing, -1, hat)
    found = feature_set(generator.normal(size=(N, 2)), y, z)
    for name, values in {"hat": hat, "shoe": generator.integers(0, 3, N)}.items():
        found = with_labels(found, name, {split: values[rows] for split, rows in parts().items()})
    return found


def test_a_kept_column_tells_what_its_table_tells():
    features = people()
    labels = features.labels["test"]
    found = told_by_kept(features, column(2), (HAT, SHOE), HOW, 0.5, 0.9)
    exact = float((labels["hat"] == labels["z"]).mean())
    assert (found.accuracy, found.n, found.columns) == (pytest.approx(exact, abs=0.02), SIZES[2], ("hat", "shoe"))
    assert found.ci[0] < found.accuracy < found.ci[1]
    assert found.excess_leakage == pytest.approx((found.accuracy - 0.5) / 0.4)
    assert json.loads(json.dumps(found.to_dict()))["columns"] == ["hat", "shoe"]
    assert told_by_kept(features, column(2), (HAT,), HOW, 0.5, None).excess_leakage is None


def test_a_kept_column_that_tells_nothing_adds_nothing_to_the_floor():
    found = told_by_kept(people(), column(2), (SHOE,), HOW, 0.5, 0.9)
    assert abs(found.accuracy - 0.5) < 0.04
    assert told_by_kept(people(), column(2), (), HOW, 0.5, 0.9) is None


def test_target_and_column_are_read_together():
    features = people(agree=0.5)
    for labels in features.labels.values():
        labels["hat"] = labels["y"] ^ labels["z"]  # neither tells z, both do
    assert told_by_kept(features, column(2), (HAT,), HOW, 0.5, 0.9).accuracy == 1.0
    alone = told_by_kept(features, column(2), (HAT,), replace(HOW, target=NO_TARGET), 0.5, 0.9)
    assert abs(alone.accuracy - 0.5) < 0.05


def test_missing_labels_and_columns_of_many_classes():
    features = people(agree=1.0, missing=0.5)
    for labels in features.labels.values():
        labels["z"] = labels["z"].copy()
        labels["z"][:100] = -1
    found = told_by_kept(features, column(2), (HAT,), HOW, 0.5, 0.9)
    assert found.n == SIZES[2] - 100
    assert abs(found.accuracy - 0.75) < 0.05
    ages = Column("age", tuple(str(age) for age in range(100)))
    for labels in features.labels.values():
        labels["age"] = np.arange(len(labels["z"])) % 40 + 50 * (labels["z"] > 0)
    assert told_by_kept(features, column(2), (ages,), HOW, 0.5, 0.9).accuracy > 0.85
    # Too many names to read, and none of them common: nothing is said rather than something made up.
    names = Column("name", tuple(f"n{i}" for i in range(SIZES[0])))
    for labels in features.labels.values():
        labels["name"] = np.arange(len(labels["z"])) % SIZES[0]
    assert told_by_kept(features, column(2), (names,), replace(HOW, target=NO_TARGET), 0.5, 0.9) is None
    # Only what was read is named.
    assert told_by_kept(features, column(2), (names,), HOW, 0.5, 0.9) is None
    assert told_by_kept(features, column(2), (names, HAT), HOW, 0.5, 0.9).columns == ("hat",)
    many = replace(HOW, target="name")
    assert told_by_kept(features, column(2), (HAT,), many, 0.5, 0.9).accuracy > 0.6


def test_there_is_no_share_of_a_leak_that_nobody_sees():
    """The original tells nothing: an attacker is a hair above the floor, and a share of that would be any number."""
    noise = people(seed=7)
    subject = Subject(noise, noise, (column(2),), (HAT,), ("hat",), column(2, "y"))
    entry = attack_all(subject, replace(HOW, suite=[build_attacker("linear")]))["attributes"]["z"]
    assert entry["original_best"] > entry["floors"]["label"], "else there is no share anyway"
    assert entry["excess_leakage"] is None
    assert (entry["kept"]["excess_leakage"], entry["kept"]["accuracy"] > 0.7) == (None, True)


def test_an_audit_says_it_where_training_kept_a_column(tmp_path):
    torch.set_num_threads(1)
    data = dataset()
    labels = {**data.labels, "hat": (data.labels["z"] == 2).astype(np.int64)}
    classes = {"y": ("dark", "bright"), "z": ("low", "middle", "high"), "hat": ("no", "yes")}
    data = replace(data, labels=labels, schema=build_schema(labels, classes, data.splits, "y", ["z"]))
    more = {"original": network(), "config": AuditConfig(attackers=("linear",), epochs=1, resamples=200, beyond=())}
    found = audit(network(1), data.preserving(["hat"]), "3", cache=tmp_path, progress=False, **more)
    entry = found.to_dict()["attributes"]["z"]
    test = data.splits["test"]
    z, y = data.labels["z"][test], data.labels["y"][test]
    exact = (np.bincount(z[z < 2]).max() + (z == 2).sum()) / len(z)
    assert entry["kept"]["accuracy"] == pytest.approx(exact, abs=0.12)
    assert entry["kept"]["accuracy"] > entry["floors"]["label"] + 0.1
    assert (entry["kept"]["columns"], len(y)) == (["hat"], entry["kept"]["n"])
    assert f"told by target and kept columns alone (hat): {entry['kept']['accuracy']:.3f}" in found.summary()
    plain = audit(network(1), data, "3", cache=tmp_path, progress=False, **more).to_dict()
    assert plain["attributes"]["z"]["kept"] is None
