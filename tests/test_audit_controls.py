"""The controls: planted leaks of known worth, shuffled labels, attackers that are blind or that cheat; the verdict."""

import dataclasses

import numpy as np
import pytest
import torch

from audit_helpers import column, feature_set
from efface.audit.attack import Arena, Settings
from efface.audit.attackers import Attacker, FeatureView, FittedAttacker, build_attacker
from efface.audit.attribute import audit_attribute, verdict
from efface.audit.controls import DETERMINED, Controls, Stage, control_steps, plant, run_controls
from efface.audit.plants import SEPARATION, channels_of, noisy_copy, part, pattern_for, planted, shuffle_within
from efface.audit.result import AT_FLOOR, INCONCLUSIVE, LEAKS
from efface.audit.store import stored_from_arrays
from efface.config import AuditConfig
from test_audit import Stubborn, outcomes

SIZES = (1500, 400, 1500)
N = sum(SIZES)


def drawn(shape=(8,), leak=0.0, tied=0.0, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, N)
    z = np.where(generator.random(N) < tied, y, generator.integers(0, 2, N))
    features = generator.normal(size=(N, *shape))
    features.reshape(N, shape[0], -1)[:, 0] += 6 * y[:, None]
    features.reshape(N, shape[0], -1)[:, 1] += leak * (2 * z[:, None] - 1)
    logits = np.eye(2)[y] * 4 + 0.5 * generator.normal(size=(N, 2))
    return feature_set(features, y, z, SIZES, logits)


def settings_of(*attackers, **changes):
    suite = [build_attacker(one) if isinstance(one, str) else one for one in attackers]
    config = AuditConfig(**{"epochs": 4, "resamples": 400, **changes})
    return Settings(config, suite, "y")


class Seer(FittedAttacker):
    """Reads the labels that it is to guess, as no attacker may."""

    validation_accuracy, epoch, warning = 1.0, 1, None

    def predict_logits(self, view):
        return 9 * torch.eye(view.classes)[view.labels]


class Cheat(Attacker):
    """Sees leaks everywhere."""

    name = "cheat"

    def fit(self, train, validation, budget):
        return Seer()


def test_attackers_find_what_is_planted_and_keep_quiet_where_nothing_is():
    found = run_controls(drawn(), column(2), settings_of("linear", "mlp-small", "output", "ensemble"))
    rows = {row["name"]: row for row in found.section["planted"]["attackers"]}
    assert found.fit == dict.fromkeys(("linear", "mlp-small", "output", "ensemble"), True)
    assert rows["linear"]["share"]["value"] > 0.6
    assert rows["output"]["share"]["value"] > 0.4
    assert found.alarmed == frozenset()
    assert found.failed == ()
    shuffled = found.section["shuffled"]
    assert shuffled["covered"] + shuffled["above"] + shuffled["below"] == len(shuffled["attackers"]) == 4
    assert shuffled["above"] == 0
    assert [found.section["planted"][key] for key in ("powerless", "epochs")] == [None, 4]


def test_the_worth_of_what_is_planted_is_what_a_perfect_reader_gains():
    made = plant(staged(drawn(tied=0.4)), np.random.default_rng(0))
    gain = made.perfect.mean() - made.floor.mean()
    assert gain == pytest.approx(0.15, abs=0.04)
    assert made.powerless is None


def test_nothing_is_planted_where_y_tells_z_though_the_model_errs():
    features = drawn(tied=1.0)
    wrong = {name: logits.clone() for name, logits in features.logits.items()}
    for logits in wrong.values():
        logits[::10] = logits[::10].flip(1)
    made = plant(staged(dataclasses.replace(features, logits=wrong)), np.random.default_rng(0))
    assert made.powerless == DETERMINED


def staged(features, seed=0):
    settings = settings_of("linear")
    return Stage.of(Arena.make(features, column(2), settings, "x"), 1.0, np.random.default_rng(seed))


def test_floors_survive_the_shuffle_and_nothing_else_does():
    features = drawn(leak=4.0, tied=0.6)
    stage, generator = staged(features), np.random.default_rng(1)
    view, y = stage.views["train"], stage.target["train"]
    z = features.labels["train"]["z"]
    for label in np.unique(y):
        assert sorted(view.labels.numpy()[y == label]) == sorted(z[y == label])
    # Channel 1 tells z, and tells the shuffled labels only what y tells of them.
    told = view.standardised(torch.arange(len(view)))[:, 1].numpy()
    assert abs(np.corrcoef(told[y == 1], z[y == 1])[0, 1]) > 0.9
    assert abs(np.corrcoef(told[y == 1], view.labels.numpy()[y == 1])[0, 1]) < 0.15
    assert (shuffle_within(z, y, generator) != z).any()


def test_the_copy_is_worth_what_was_asked_or_half_of_what_there_is():
    y = np.arange(1000) % 2
    z = np.where(np.arange(1000) % 10 < 9, y, 1 - y)
    copy = noisy_copy(z, y, y, 2, 0.3)
    assert copy.floor == pytest.approx(0.9)
    assert copy.bayes == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (6, 8, 8)])
def test_what_is_written_is_the_pattern_and_nothing_else(shape):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(300, *shape)).astype(np.float32) * 3 + 20
    stored = stored_from_arrays({"train": values}, exact=True)["train"]
    view = FeatureView(stored, np.arange(300), torch.from_numpy(generator.integers(0, 3, 300)), 3)
    form = pattern_for(view, generator)
    written = view.labels.numpy()
    made, everybody = planted(view, written, form), torch.arange(300)
    change = (made.standardised(everybody) - view.standardised(everybody)).numpy()
    rows = change if len(shape) == 2 else np.moveaxis(change.reshape(300, shape[0], -1), 1, 2)
    rows = rows.reshape(300, -1, 6)
    assert np.allclose(rows, form.values.numpy()[written][:, None], atol=1e-4)
    # Along the pattern, the closest two classes are as far apart as was said.
    means = view.standardised(everybody).numpy()
    means = means.mean(1) if len(shape) == 2 else means.reshape(300, 6, -1).mean(2)
    steps = [form.values[a] - form.values[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    apart = [float(step @ step) / float((means @ step.numpy()).std()) for step in steps]
    assert min(apart) == pytest.approx(SEPARATION, rel=0.05)


def test_a_part_of_the_features_is_as_exact_as_the_whole():
    values = np.random.default_rng(0).normal(size=(40, 12, 32, 32)).astype(np.float32)
    stored = stored_from_arrays({"train": values}, exact=True)["train"]
    view = FeatureView(stored, np.arange(40), torch.zeros(40, dtype=torch.long), 2)
    channels = channels_of(view.shape, np.random.default_rng(0))
    assert len(channels) == 8
    people = np.array([3, 9, 31])
    found = part(view, people, channels, torch.zeros(3, dtype=torch.long))
    whole = view.standardised(torch.from_numpy(people))[:, torch.from_numpy(channels)]
    assert torch.equal(found.standardised(torch.arange(3)), whole)


def test_an_attacker_that_finds_nothing_is_unfit_and_alone_it_decides_nothing():
    entry = audit_attribute(drawn(), drawn(leak=3.0), column(2), settings_of("linear", Stubborn()))
    rows = {row["name"]: row for row in entry["attackers"]}
    assert rows["linear"]["fit"] is True
    assert rows["stubborn"]["fit"] is False
    assert "does not find a planted leak that is worth" in rows["stubborn"]["unfit"]
    assert entry["verdict"] == AT_FLOOR
    alone = audit_attribute(drawn(), None, column(2), settings_of(Stubborn()))
    assert alone["verdict"] == INCONCLUSIVE
    assert alone["controls"]["passed"] is False
    assert any("No attacker finds a planted leak" in text for text in alone["warnings"])


def test_what_an_attacker_finds_that_sees_leaks_everywhere_does_not_count():
    entry = audit_attribute(drawn(), None, column(2), settings_of("linear", Cheat()))
    rows = {row["name"]: row for row in entry["attackers"]}
    assert rows["cheat"]["accuracy"] == 1.0
    assert rows["cheat"]["fit"] is False
    assert entry["verdict"] == INCONCLUSIVE
    assert entry["controls"]["shuffled"]["shuffles"] == 2
    assert any(text.startswith("cheat finds more than the floor") for text in entry["warnings"])
    # A leak that another attacker finds stays one.
    leaky = audit_attribute(drawn(leak=3.0), None, column(2), settings_of("linear", Cheat()))
    assert leaky["verdict"] == LEAKS


def test_where_y_tells_z_nothing_can_be_planted_and_that_is_no_failure():
    found = run_controls(drawn(tied=1.0), column(2), settings_of("linear"))
    assert found.section["planted"]["powerless"] == DETERMINED
    assert found.failed == ()
    assert any("nowing y tells z" in text for text in found.remarks)


def test_features_that_do_not_vary_take_no_leak():
    features = drawn()
    constant = dataclasses.replace(
        features, features=stored_from_arrays({s: np.ones((len(f), 4)) for s, f in features.features.items()})
    )
    found = run_controls(constant, column(2), settings_of("linear"))
    assert found.fit == {"linear": None}
    assert "do not vary" in found.failed[0]


def test_too_few_people_show_nothing():
    sizes = (30, 12, 8)
    generator = np.random.default_rng(0)
    y, z = generator.integers(0, 2, 50), np.arange(50) % 2
    found = run_controls(feature_set(generator.normal(size=(50, 4)), y, z, sizes), column(2), settings_of("linear"))
    assert "too few" in found.failed[0]


@pytest.mark.parametrize(
    ("after", "alarmed", "failed", "told"),
    [
        ((0.6, 0.5), (), (), LEAKS),
        ((0.6, 0.5), ("a0",), (), INCONCLUSIVE),
        ((0.6, 0.6), ("a0",), (), LEAKS),
        ((0.6, 0.5), ("a0", "a1"), (), INCONCLUSIVE),
        ((0.6, 0.5), (), ("why",), LEAKS),
        ((0.5, 0.5), (), ("why",), INCONCLUSIVE),
        ((0.5, 0.5), ("a0",), (), AT_FLOOR),
    ],
)
def test_verdicts_with_controls(after, alarmed, failed, told):
    controls = Controls({}, frozenset(alarmed), {}, failed, (), {})
    assert verdict(outcomes(*after), outcomes(0.8), 0.5, 0.5, controls) == told


def test_the_bar_is_moved_as_far_as_was_told():
    heard = []
    settings = settings_of("linear", "output", "ensemble")
    run_controls(drawn(), column(2), dataclasses.replace(settings, tick=lambda _, steps: heard.append(steps)))
    assert sum(heard) == control_steps(settings.suite, settings.config.epochs)


def test_with_many_classes_and_few_people_the_counted_floor_is_not_asked_of_anybody():
    """The most frequent of 20 classes among 150 people is so by chance: nobody knows it who has not seen them."""
    generator, sizes = np.random.default_rng(0), (600, 300, 300)
    y, z = generator.integers(0, 2, 1200), generator.integers(0, 20, 1200)
    features = feature_set(generator.normal(size=(1200, 8)), y, z, sizes, np.eye(2)[y] * 4)
    shuffled = run_controls(features, column(20), settings_of("output")).section["shuffled"]
    assert shuffled["attackers"][0]["ci"][1] < shuffled["floor"]
    assert shuffled["reachable"] < shuffled["floor"]
    assert (shuffled["covered"], shuffled["below"]) == (1, 0)


def test_false_alarms_on_noise_are_rare():
    """Quiet attackers on many shuffles: no alarm is confirmed, and nearly every interval covers the floor."""
    covered = total = 0
    for seed in range(8):
        settings = dataclasses.replace(settings_of("linear"), seed=seed)
        found = run_controls(drawn(seed=seed), column(2), settings)
        assert found.alarmed == frozenset()
        covered += found.section["shuffled"]["covered"]
        total += 1
    assert covered >= total - 3
