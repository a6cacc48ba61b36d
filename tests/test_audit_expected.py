"""Suites and what they cost, told before they start; learning curves."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from audit_helpers import column, dataset, feature_set, network
from efface.audit import audit, audit_embeddings
from efface.audit.attack import Settings
from efface.audit.attackers import Attacker, build_attacker
from efface.audit.conclude import prepare
from efface.audit.expected import Cost, Pace, cost
from efface.audit.learning import learning_curve
from efface.audit.plan import SUITES, Plan
from efface.config import AuditConfig

DOCS = Path(__file__).parents[1] / "docs"
FAST = {"attackers": ("linear", "mlp-small"), "epochs": 2, "resamples": 200, "beyond": (), "reconstruction": False}


class Own(Attacker):
    """An attacker whose cost is not known."""

    name = "own"

    def fit(self, train, validation, budget):
        return build_attacker("linear").fit(train, validation, budget)


def test_the_page_names_who_is_in_each_suite():
    text = (DOCS / "attackers" / "suites.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and "`" in line]
    for place, (suite, members) in enumerate(SUITES.items(), 2):
        named = {
            n for row in rows if len(row) == 5 and "yes" in row[place] for n in re.findall(r"`([a-z0-9-]+)`", row[0])
        }
        assert named - {"-raw"} == set(members), suite


def test_a_suite_sets_the_epochs_unless_they_are_given():
    assert prepare(AuditConfig(suite="standard"), None, 0, "x").config.epochs == 6
    assert prepare(AuditConfig(suite="standard", epochs=9), None, 0, "x").config.epochs == 9
    assert prepare(AuditConfig(), None, 0, "x").config.epochs == 12


def test_the_cost_counts_fits_and_leaves_out_who_has_nothing_to_read():
    names = ("conv", "mlp", "knn", "output", "ensemble")
    plan = Plan.of(AuditConfig(attackers=names, seeds=3))
    maps, vectors = (cost(plan, [shape], 1000, [2, 5], models=2) for shape in ((16, 8, 8), (64,)))
    assert maps.fits == (len(names) - 1) * 2 * 3 * 2
    assert "conv" in maps.seconds
    assert "conv" not in vectors.seconds
    assert maps.total > cost(plan, [(16, 8, 8)], 1000, [2, 5], models=1).total
    double = cost(plan, [(16, 8, 8)], 1000, [2, 5], pace=Pace(2.0, 1.0))
    assert double.seconds["mlp"] == pytest.approx(2 * maps.seconds["mlp"])
    assert double.seconds["knn"] == pytest.approx(maps.seconds["knn"])


def test_controls_are_a_small_part_of_the_cost_where_people_are_many():
    found = cost(Plan.of(AuditConfig(suite="standard")), [(64, 8, 8)], 16_000, [5], epochs=6)
    assert 0 < found.controls < 0.25 * found.total


def test_what_is_not_known_is_said():
    found = cost(Plan.of(AuditConfig(), [Own(), build_attacker("linear")]), [(8,)], 500, [2])
    assert math.isnan(found.seconds["own"])
    assert "and whatever own takes" in found.describe("custom")
    assert (
        Cost(4, {"linear": 30.0}, 4.0).describe("quick").startswith("Suite quick: 1 attackers, 4 fits, and controls;")
    )


def test_the_pace_of_this_machine_is_a_positive_number():
    found = Pace.measured(2)
    assert 0.01 < found.networks < 1000
    assert 0.01 < found.others < 1000


def test_the_cost_is_told_before_it_starts_and_kept(capsys):
    found = audit(network(), dataset(), "3", config=AuditConfig(**FAST), progress=True)
    told = capsys.readouterr().err
    assert "Suite custom: 2 attackers, 2 fits, and controls; about" in told
    assert found.suite["expected_s"] > 0
    z = np.arange(300) % 2
    table = {"z": z}
    features = np.random.default_rng(0).normal(size=(300, 4))
    quiet = audit_embeddings(features, table, attributes="z", config=AuditConfig(**FAST), progress=False)
    assert capsys.readouterr().err == ""
    assert quiet.suite["expected_s"] is None
    assert "controls" in quiet.summary()


def test_every_section_that_is_named_is_made():
    generator = np.random.default_rng(0)
    y, z = generator.integers(0, 2, 900), generator.integers(0, 2, 900)
    features = generator.normal(size=(900, 6))
    features[:, 1] += 3 * z
    config = AuditConfig(**{**FAST, "attackers": ("linear", "ensemble", "mlp-small"), "beyond": ("learning_curve",)})
    found = audit_embeddings(features, {"y": y, "z": z}, attributes="z", target="y", config=config, progress=False)
    curve = found.learning_curve["z"]
    assert curve["attacker"] in ("linear", "mlp-small")
    assert [point["people"] for point in curve["points"]] == sorted(point["people"] for point in curve["points"])
    assert curve["points"][-1]["people"] == found.data["n"]["train"]
    assert found.phases["learning_curve_s"] >= 0


def curve_of(features, y, z, sizes, heard=None):
    tick = (lambda *_: None) if heard is None else (lambda _, steps: heard.append(steps))
    settings = Settings(AuditConfig(epochs=3, resamples=400), [], "y", tick=tick)
    return learning_curve(feature_set(features, y, z, sizes), column(2), build_attacker("linear"), settings)


def test_a_curve_rises_where_directions_are_many_and_rests_where_one_tells_all():
    sizes = (1200, 300, 1500)
    generator, n = np.random.default_rng(0), sum(sizes)
    y, z = generator.integers(0, 2, n), generator.integers(0, 2, n)
    wide = generator.normal(size=(n, 800)) + 0.1 * (2 * z - 1)[:, None] * np.sign(generator.normal(size=800))
    heard = []
    rising = curve_of(wide, y, z, sizes, heard)
    assert rising.rising
    assert rising.people == (150, 300, 600, 1200)
    assert sum(heard) == 4 * 3
    plain = np.where(generator.random(n) < 0.9, z, 1 - z)[:, None].astype(float)
    assert not curve_of(plain, y, z, sizes).rising


def test_too_few_people_make_no_curve():
    y, z = np.arange(90) % 2, np.arange(90) // 2 % 2
    assert curve_of(np.random.default_rng(0).normal(size=(90, 3)), y, z, (40, 20, 30)) is None
