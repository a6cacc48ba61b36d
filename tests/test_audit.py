"""The audit as a whole: verdicts on planted and absent leaks, its dictionary, its report, its errors."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audit_helpers import SIZES, column, dataset, feature_set, network
from efface.audit import AuditResult, audit
from efface.audit.attack import Outcome, Outcomes, run_suite
from efface.audit.attackers import Attacker, FittedAttacker, build_attacker
from efface.audit.attribute import Settings, audit_attribute, reachable_floor, unguessed, verdict, with_aum
from efface.audit.controls import Controls
from efface.audit.intervals import Resampling
from efface.audit.metrics import aum
from efface.audit.reconstruction import choose_people, reconstruct, slope
from efface.audit.result import AT_FLOOR, INCONCLUSIVE, LEAKS, Attack
from efface.audit.threat import Threat
from efface.config import AuditConfig
from efface.errors import AuditError

N = sum(SIZES)
QUICK = {"attackers": ("linear", "mlp"), "epochs": 4, "resamples": 500, "reconstruction_epochs": 1, "faces": 4}


def quick(**changes):
    return AuditConfig.model_validate({**QUICK, **changes})


def settings_of(*names, **changes):
    return Settings(quick(**changes), [build_attacker(name) for name in names or ("linear", "mlp")], "y")


def drawn(leak, seed=0, tied=0.0):
    """y and z (equal for a share of people), and features that tell y well, and z by ``leak`` standard deviations."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, N)
    z = np.where(generator.random(N) < tied, y, generator.integers(0, 2, N))
    features = generator.normal(size=(N, 6))
    features[:, 0] += 6 * y
    features[:, 1] += leak * (2 * z - 1)
    return feature_set(features, y, z)


def test_a_planted_leak_is_found():
    entry = audit_attribute(drawn(1.5), drawn(2.0, seed=0), column(2), settings_of())
    assert entry["verdict"] == LEAKS
    assert entry["highest"]["accuracy"] > 0.9
    assert 0.8 < entry["excess_leakage"] < 1
    low, high = entry["excess_leakage_ci"]
    assert low < entry["excess_leakage"] < high
    assert entry["best"]["bits"] > 0.4
    assert entry["warnings"] == []


@pytest.mark.parametrize("tied", [0.0, 0.6])
def test_features_without_z_are_at_the_floor(tied):
    entry = audit_attribute(drawn(0.0, tied=tied), drawn(2.0, tied=tied), column(2), settings_of())
    assert entry["verdict"] == AT_FLOOR
    assert abs(entry["best"]["accuracy"] - entry["floors"]["label"]) < 0.05
    assert entry["excess_leakage"] < 0.12
    assert entry["original_best"] > 0.95


@pytest.mark.parametrize("hint", [0.0, 4.0])
def test_what_only_probabilities_tell_is_said_at_the_floor(hint):
    """The feature moves p(z) between 0.6 and 0.95, so nobody's best guess changes, but its probability does."""
    generator = np.random.default_rng(0)
    y, sign = generator.integers(0, 2, N), generator.integers(0, 2, N)
    z = (generator.random(N) < np.where(sign == 1, 0.05, 0.4)).astype(int)
    now, then = generator.normal(size=(2, N, 6))
    now[:, 0], then[:, 0] = now[:, 0] + 6 * y, then[:, 0] + 6 * y
    now[:, 1] += hint * sign
    then[:, 1] += 6 * z
    entry = audit_attribute(
        feature_set(now, y, z), feature_set(then, y, z), column(2), settings_of("linear", "least-squares")
    )
    assert entry["verdict"] == AT_FLOOR
    assert any("but probabilities do" in text for text in entry["warnings"]) == bool(hint)


def test_a_leak_that_shows_where_the_same_people_are_paired_is_a_leak():
    """Both guess the same people but for a few, whom the attacker guesses right: two intervals overlap, paired none."""
    by_label = np.arange(1000) < 500
    found, original = outcomes(0.515, *[0.5] * 9), outcomes(0.8)
    assert not found.exceeds(0.5)
    assert verdict(found, original, 0.5, 0.5) == AT_FLOOR
    assert verdict(found, original, 0.5, 0.5, None, by_label) == LEAKS
    # Not the pick of validation: its luck on these people is not what is asked.
    unpicked = outcomes(0.5, 0.515, validation=(0.6, 0.5))
    assert verdict(unpicked, original, 0.5, 0.5, None, by_label) == AT_FLOOR
    alarmed = Controls({}, frozenset({"a0"}), {}, (), (), {})
    assert verdict(found, original, 0.5, 0.5, alarmed, by_label) == INCONCLUSIVE


def test_pairing_raises_no_more_false_alarms_than_its_confidence_says():
    generator, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        z, by_label = generator.integers(0, 2, 500), np.zeros(500, int)
        changed = generator.random(500) < 0.3  # guesses of one who knows no more than y, and gambles
        correct = np.where(changed, generator.integers(0, 2, 500), by_label) == z
        one = Attack("a", float(correct.mean()), (0.0, 1.0), 0.0, 0.5, 1, 0.0)
        found = Outcomes((Outcome(one, correct[None]),), Resampling(0.95, 500, 0))
        alarms += found.beats(by_label == z)
    assert 0 < alarms <= 12, "2.5 % of 200 are 5"


def test_without_an_original_the_audit_says_what_is_missing():
    entry = audit_attribute(drawn(0.0), None, column(2), settings_of("linear"))
    assert entry["verdict"] == AT_FLOOR
    assert entry["original_best"] is entry["original_attackers"] is entry["excess_leakage"] is None
    assert any("No original model was given" in text for text in entry["warnings"])


def test_a_suite_that_cannot_see_the_attribute_is_inconclusive():
    entry = audit_attribute(drawn(0.0), drawn(0.0), column(2), settings_of("linear"))
    assert entry["verdict"] == INCONCLUSIVE
    assert entry["excess_leakage"] is entry["excess_leakage_ci"] is None
    assert any("No attacker sees the attribute in the original" in text for text in entry["warnings"])


class Constant(FittedAttacker):
    validation_accuracy, epoch, warning = 0.1, 1, None

    def __init__(self, guess):
        self.guess = guess

    def predict_logits(self, view):
        return torch.eye(view.classes)[torch.full((len(view),), self.guess)]


class Stubborn(Attacker):
    """Always guesses the same class: an attacker that failed to train."""

    name = "stubborn"

    def fit(self, train, validation, budget):
        return Constant(0)


def test_attackers_below_what_the_answer_gives_away_are_inconclusive_and_marked():
    features = drawn(0.0, tied=0.8)
    entry = audit_attribute(features, drawn(2.0, tied=0.8), column(2), Settings(quick(), [Stubborn()], "y"))
    assert entry["verdict"] == INCONCLUSIVE
    assert "which the model's own answer" in entry["attackers"][0]["warning"]
    assert any("the suite failed to train" in text for text in entry["warnings"])


def test_an_attacker_that_is_blind_to_the_original_is_marked():
    settings = Settings(quick(), [build_attacker("linear"), Stubborn()], "y")
    entry = audit_attribute(drawn(0.0), drawn(2.0), column(2), settings)
    assert entry["attackers"][0]["warning"] is None
    assert "learned nothing from the original model" in entry["attackers"][1]["warning"]
    assert entry["verdict"] == AT_FLOOR


class Lucky(Stubborn):
    """The same, and validation prefers its guesses."""

    name = "lucky"

    def fit(self, train, validation, budget):
        constant = Constant(0)
        constant.validation_accuracy = 1.0
        return constant


def rare(leak, seed=0):
    """z that 1 of 8 people have, and features that make it more or less likely, seldom more than not."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, N), (generator.random(N) < 0.125).astype(int)
    features = generator.normal(size=(N, 6))
    features[:, 0] += 6 * y
    features[:, 1] += leak * z
    return feature_set(features, y, z)


def test_probabilities_that_tell_more_than_guesses_are_said_whoever_guesses_best():
    settings = Settings(quick(), [Lucky(), build_attacker("linear")], "y")
    entry = audit_attribute(rare(1.2), rare(4.0), column(2), settings)
    assert entry["best"]["attacker"] == "lucky"
    assert entry["verdict"] == AT_FLOOR
    assert any("those of linear hold" in text and "beyond what the target tells" in text for text in entry["warnings"])
    nothing = audit_attribute(rare(0.0), rare(4.0), column(2), settings)
    assert nothing["verdict"] == AT_FLOOR
    assert not any("beyond what the target tells" in text for text in nothing["warnings"])


def test_noise_is_seldom_said_to_tell_anything():
    """The best informed is picked on validation: its interval on the audited people is not the best of several."""
    config = quick(resamples=300)
    settings, said = Settings(config, [build_attacker(name) for name in ("linear", "least-squares")], "y"), 0
    for seed in range(20):
        found = run_suite(rare(0.0, seed), column(2), settings, "the model")
        said += bool(unguessed(found.most_informed.attack))
    assert said <= 3, "2.5 % of 20 are 0.5"


def outcomes(*accuracies, n=1000, validation=None):
    rows = []
    for place, accuracy in enumerate(accuracies):
        picked = accuracy if validation is None else validation[place]
        attack = Attack(f"a{place}", accuracy, (0.0, 1.0), 0.0, picked, 1, 0.0)
        rows.append(Outcome(attack, (np.arange(n) < round(accuracy * n))[None]))
    return Outcomes(tuple(rows), Resampling(0.95, 4000, 0))


def test_validation_picks_the_best_and_the_highest_is_conservative():
    found = outcomes(0.6, 0.62, validation=(0.7, 0.65))
    assert found.best.attack.name == "a0"
    assert found.highest.attack.name == "a1"


def test_the_highest_of_many_is_judged_more_strictly():
    alone, many = outcomes(0.53).highest.attack.ci, outcomes(0.53, *[0.5] * 9).highest.attack.ci
    assert many[0] < alone[0]
    assert many[1] > alone[1]
    assert outcomes(0.533).exceeds(0.5)
    assert not outcomes(0.533, *[0.5] * 9).exceeds(0.5)


@pytest.mark.parametrize(
    ("after", "before", "reach", "told"),
    [
        (0.60, 0.80, 0.5, LEAKS),
        (0.51, 0.80, 0.5, AT_FLOOR),
        (0.51, None, 0.5, AT_FLOOR),
        (0.51, 0.51, 0.5, INCONCLUSIVE),
        (0.44, 0.80, 0.5, INCONCLUSIVE),
        (0.60, 0.51, 0.5, LEAKS),
        (0.44, 0.80, 0.43, AT_FLOOR),
    ],
)
def test_verdicts(after, before, reach, told):
    original = None if before is None else outcomes(before)
    assert verdict(outcomes(after), original, 0.5, reach) == told


def test_reach_is_the_better_of_majority_and_the_models_own_answer():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, N)
    z = np.where(generator.random(N) < 0.8, y, 1 - y)
    features = feature_set(np.zeros((N, 2)), y, z)
    assert reachable_floor(features, column(2), settings_of("linear")) == pytest.approx(0.8, abs=0.03)
    blind = feature_set(np.zeros((N, 2)), y, z, logits=np.tile([1.0, 0.0], (N, 1)))
    test = blind.labels["test"]["z"]
    assert reachable_floor(blind, column(2), settings_of("linear")) in ((test == 0).mean(), (test == 1).mean())


def test_classes_nobody_shows_in_training_are_told():
    entry = audit_attribute(drawn(1.0), None, column(3), settings_of("linear"))
    assert any("Nobody in the train split is z2" in text for text in entry["warnings"])


def test_attributes_that_cannot_be_attacked_are_refused():
    features = drawn(1.0)
    features.labels["validation"]["z"][:] = -1
    with pytest.raises(AuditError, match="Nobody in the validation split has a label of 'z'"):
        audit_attribute(features, None, column(2), settings_of("linear"))
    features = drawn(1.0)
    features.labels["train"]["z"][:] = 1
    with pytest.raises(AuditError, match="Everybody in the train split has 'z' = 'z1'"):
        audit_attribute(features, None, column(2), settings_of("linear"))


def test_aum_of_an_entry():
    entry = {"classes": ["a", "b"], "efficacy": 0.6, "original_best": 0.1, "floors": {"label": 0.55}}
    found = with_aum(entry, 0.9, 0.95)
    assert found["aum"] == aum(0.6, 0.9)
    assert found["aum_ceiling"] == aum(0.55, 1.0)
    assert found["original_aum"] == aum(0.9, 0.95)
    assert with_aum({**entry, "original_best": None}, 0.9, None)["original_aum"] is None


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("features")
    data = dataclasses.replace(dataset(missing=30), warnings=("two copies",))
    return audit(network(1), data, "3", original=network(), config=quick(), cache=cache, progress=False, name="tiny")


FIELDS = {
    "schema_version", "created", "name", "seed", "split", "confidence", "data", "model", "threat", "fidelity",
    "attributes", "reconstruction", "phases", "warnings", "suite", "fairness", "controls",
}  # fmt: skip
ENTRY = {
    "classes", "n", "floors", "original_best", "best", "highest", "attackers", "original_attackers", "excess_leakage",
    "excess_leakage_ci", "efficacy", "aum", "aum_ceiling", "original_aum", "verdict", "warnings", "certificate",
    "skipped", "kept",
}  # fmt: skip
ATTACK = {
    "name", "accuracy", "ci", "bits", "bits_ci", "balanced_accuracy", "balanced_accuracy_ci", "auc", "auc_ci",
    "conditional_bits", "conditional_bits_ci", "validation_accuracy", "epoch", "seconds", "seeds", "per_seed", "note",
    "warning", "fit", "unfit",
}  # fmt: skip
CONTROL = {"passed", "failed", "people", "features", "planted", "shuffled", "original", "seconds"}


def test_the_dictionary_is_the_contract(result):
    values = result.to_dict()
    assert set(values) == FIELDS
    assert values["schema_version"] == "1.1"
    assert values["data"]["n"] == {"train": 120, "validation": 120, "test": 120}
    assert set(values["data"]) == {"name", "target", "attributes", "image_shape", "n", "warnings", "schema"}
    assert values["model"]["at"] == "3"
    assert values["model"]["feature_shape"] == [8, 4, 4]
    assert values["model"]["auxiliary"] is None
    assert set(values["fidelity"]) == {"value", "ci", "original", "original_ci", "n"}
    entry = values["attributes"]["z"]
    assert set(entry) == ENTRY
    assert set(entry["best"]) == {"attacker", "accuracy", "ci", "bits"}
    assert set(entry["highest"]) == {"attacker", "accuracy", "ci", "excess_leakage"}
    assert entry["highest"]["excess_leakage"] >= entry["excess_leakage"] > 0
    assert all(set(attack) == ATTACK for attack in (*entry["attackers"], *entry["original_attackers"]))
    assert entry["n"] == int((dataset(missing=30).split_labels("test", "z") >= 0).sum()) < 120
    assert set(values["reconstruction"]) == {"original", "unlearned"}
    assert {"audit_s", "features_s", "attacks_s", "controls_s", "fairness_s", "reconstruction_s"} <= set(
        values["phases"]
    )
    assert values["suite"]["attackers"] == ["linear", "mlp"]
    assert all(seconds > 0 for seconds in values["suite"]["seconds"].values())
    assert values["data"]["warnings"] == ["two copies"]
    assert set(values["controls"]["z"]) == CONTROL
    assert [row["name"] for row in values["controls"]["z"]["shuffled"]["attackers"]] == ["linear", "mlp"]


def test_the_dictionary_obeys_the_published_schema(result):
    import importlib.resources

    import jsonschema

    text = (importlib.resources.files("efface.report") / "audit.schema.json").read_text()
    jsonschema.validate(result.to_dict(), json.loads(text))


def test_it_comes_back_from_json(result, tmp_path):
    again = AuditResult.from_dict(json.loads(result.to_json()))
    assert again.to_dict() == result.to_dict()
    path = result.save(tmp_path / "deep" / "audit.json")
    assert AuditResult.load(path).to_json() == result.to_json()


def test_the_summary_names_what_matters(result):
    text = result.summary()
    for words in ("Audit of tiny at 3", "Fidelity on y", "z (3 classes", "label floor", "linear", "mlp", "of at most"):
        assert words in text
    assert not any(word in text.lower() for word in ("removed", "private", "safe"))


def test_the_report_is_written(result, tmp_path):
    page = result.save_report(tmp_path / "pages" / "report.html").read_text(encoding="utf-8")
    assert "tiny" in page
    assert "data:image/png" in page


def test_reconstructions_show_the_same_people(result):
    pictures = result.reconstructions
    assert {name: pictures[name].shape for name in ("images", "original", "unlearned")} == dict.fromkeys(
        ("images", "original", "unlearned"), (4, 3, 8, 8)
    )
    assert all(pictures[name].dtype == np.uint8 for name in ("images", "original", "unlearned"))
    assert str(pictures["labels"][0]).endswith("z: high")


def test_the_same_seed_gives_the_same_audit(tmp_path):
    def once():
        config = quick(reconstruction=False, attackers=("mlp",), epochs=2)
        values = audit(network(), dataset(), "3", config=config, cache=tmp_path, progress=False).to_dict()
        entry = values["attributes"]["z"]
        return [{**row, "seconds": 0} for row in entry["attackers"]], entry["highest"], values["fidelity"]

    assert once() == once()


def test_models_are_left_as_they_were(tmp_path):
    model, original = network().train(), network(1).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = quick(attackers=("linear",), reconstruction=False)
    audit(model, dataset(), "3", original=original, config=config, cache=tmp_path, progress=False)
    assert model.training
    assert not original.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reading_the_split_that_picks_is_told(tmp_path):
    config = quick(attackers=("linear",), split="validation")
    found = audit(network(), dataset(), "3", config=config, cache=tmp_path, progress=True)
    assert found.split == "validation"
    assert "optimistic" in found.warnings[0]
    assert found.reconstruction is None


def test_all_problems_are_told_at_once():
    data = dataset()
    with pytest.raises(AuditError, match=r"2 problems:\n1. Unknown attacker 'liner'(.|\n)*2. Unknown attacker 'mpl'"):
        audit(network(), data, "3", config=quick(attackers=("liner", "mpl")))
    empty = dataclasses.replace(data, splits={**data.splits, "test": np.array([], int)})
    with pytest.raises(
        AuditError, match=r"'mlp' is given more than once(.|\n)*The test split is empty, but it is read"
    ):
        audit(network(), empty, "3", config=quick(attackers=("mlp", "mlp")))
    with pytest.raises(AuditError, match="No attacker is given"):
        audit(network(), data, "3", attackers=[])


def test_a_model_for_another_task_is_refused(tmp_path):
    model = nn.Sequential(*list(network())[:-1], nn.Linear(8, 5))
    with pytest.raises(
        AuditError, match="Expected `model` to be a model with one output for each of the 2 classes of y"
    ):
        audit(model, dataset(), "3", cache=tmp_path, progress=False)


def test_an_audit_of_nobodys_target_is_refused(tmp_path):
    data = dataset()
    data.labels["y"][data.rows("test")] = -1
    with pytest.raises(AuditError, match="Nobody in the test split has a label of 'y'"):
        audit(network(), data, "3", cache=tmp_path, progress=False)


def test_files_that_are_no_audit_are_refused(result, tmp_path):
    values = result.to_dict()
    with pytest.raises(AuditError, match=r"of the kind 1\.1, but got '2\.0'"):
        AuditResult.from_dict({**values, "schema_version": "2.0"})
    del values["fidelity"]
    with pytest.raises(AuditError, match="it lacks fidelity"):
        AuditResult.from_dict(values)
    path = tmp_path / "audit.json"
    with pytest.raises(AuditError, match="Cannot read the audit"):
        AuditResult.load(path)
    path.write_text("[1]")
    with pytest.raises(AuditError, match="a JSON object"):
        AuditResult.load(path)


def test_decoders_draw_what_the_features_hold():
    data = dataset(n=450)
    pixels = data.images.reshape(len(data), -1) / 255.0
    sizes = (150, 150, 150)
    z = data.labels["z"]
    full = feature_set(data.images / 255.0, data.labels["y"], z, sizes)
    noise = feature_set(np.random.default_rng(0).normal(size=(len(data), 3, 8, 8)), data.labels["y"], z, sizes)
    shown = choose_people(data.split_labels("test", "z"), 3, 6)
    good, bad = (reconstruct(f, data, shown, epochs=6, width=16, seed=0) for f in (full, noise))
    assert good.psnr > bad.psnr + 1.5
    assert good.ssim > bad.ssim
    assert good.pictures.shape == (6, 3, 8, 8)
    assert 0 <= bad.ssim < 1
    assert pixels.shape == (450, 192)


def test_a_decoder_follows_the_gradient_of_cross_entropy_and_absolute_error():
    torch.manual_seed(0)
    logits, images = (3 * torch.randn(4, 3, 8, 8)).requires_grad_(), torch.rand(4, 3, 8, 8)
    (F.binary_cross_entropy_with_logits(logits, images) + F.l1_loss(logits.sigmoid(), images)).backward()
    torch.testing.assert_close(slope(logits.detach(), images), logits.grad)


def test_people_shown_are_of_each_class_in_turn():
    labels = np.array([0] * 50 + [1] * 3 + [-1] * 10)
    shown = choose_people(labels, 2, 10)
    assert labels[shown].tolist() == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]
    assert len(set(shown.tolist())) == 10


def test_threat_is_described():
    values = Threat("layer2").to_dict()
    assert values["view"] == "features"
    assert "layer2" in values["description"]
    assert "can query the encoder" in Threat("layer2", knows_encoder=True).describe()


def test_the_package_can_be_called_like_the_function(tmp_path):
    import efface.audit as package

    config = quick(attackers=("linear",), reconstruction=False)
    found = package(network(), dataset(), "3", config=config, cache=tmp_path, progress=False)
    assert isinstance(found, AuditResult)
