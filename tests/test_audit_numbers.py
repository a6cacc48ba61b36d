"""Numbers behind classes: what regressors explain is known, and an audit tells it where there are numbers."""

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from audit_helpers import SIZES, column, dataset, feature_set, network, parts
from efface.audit import audit, numbers
from efface.audit.conclude import told_as_numbers
from efface.audit.intervals import Resampling
from efface.audit.numbers import REGRESSORS, explain
from efface.audit.remembered import remembering
from efface.audit.result import AT_FLOOR, LEAKS
from efface.config import AuditConfig
from efface.data.dataset import build_schema
from efface.errors import AuditError, DataError
from efface.report.schema import load_schema

N = sum(SIZES)
HOW = Resampling(resamples=300)


def drawn(share=0.5, seed=0, missing=0, target=0.0):
    """Eight features; the first tells this share of a number's variance beyond y; z is whether the number is above 0.

    The number is the same whatever is told of it.
    """
    generator = np.random.default_rng(seed)
    own, noise, y = generator.normal(size=N), generator.normal(size=(N, 8)), generator.integers(0, 2, N)
    features = noise.copy()
    features[:, 0] = np.sqrt(share) * own + np.sqrt(1 - share) * noise[:, 0]
    features[:, 1] += 5 * target * (2 * y - 1)
    value = own + target * (2 * y - 1)
    found = feature_set(features, y, (value > 0).astype(np.int64))
    value[generator.permutation(N)[:missing]] = np.nan
    return replace(found, numbers={name: {"z": value[rows]} for name, rows in parts().items()})


def test_the_share_of_the_variance_that_is_told_is_found():
    told = []
    found = explain({"model": drawn(0.4)}, column(2), "y", how=HOW, tick=lambda _, n: told.append(n))
    assert found.value.value == pytest.approx(0.4, abs=0.05)
    assert found.value.ci[0] < 0.4 < found.value.ci[1]
    assert found.target.value == pytest.approx(0, abs=0.01)
    assert (found.original, found.excess) == (None, None)
    assert found.gain.value == pytest.approx(found.value.value - found.target.value)
    assert (found.n, sum(told)) == (SIZES[2], len(REGRESSORS))
    assert list(found.regressors) == list(REGRESSORS)


def test_features_that_tell_nothing_explain_nothing():
    found = explain({"original": drawn(0.8), "model": drawn(0.0)}, column(2), "y", how=HOW)
    assert found.value.value == pytest.approx(0, abs=0.02)
    assert found.original.value == pytest.approx(0.8, abs=0.05)
    assert found.excess.value < 0.03
    assert found.excess.ci[0] == 0


def test_what_is_bent_is_found_too():
    """The features hold the number; its distance from 0 is asked for."""
    bent = drawn(0.95)
    numbers = {part: {"z": np.abs(values["z"])} for part, values in bent.numbers.items()}
    found = explain({"model": replace(bent, numbers=numbers)}, column(2), "y", how=HOW)
    assert found.regressors["ridge"] < 0.05
    assert found.value.value > 0.4
    assert found.picked[0] != "ridge"


def test_what_the_target_tells_is_no_excess():
    """Half of the variance is y's: knowing y alone explains it, with features or without."""
    sets = {"original": drawn(0.9, target=1.0), "model": drawn(0.0, target=1.0)}
    found = explain(sets, column(2), "y", how=HOW)
    assert found.target.value == pytest.approx(0.5, abs=0.05)
    assert found.excess.value == pytest.approx(0, abs=0.02)
    assert explain({"original": sets["model"], "model": sets["model"]}, column(2), "y", how=HOW).excess is None


def test_what_is_told_beyond_the_target_is_seen_where_intervals_of_each_overlap():
    """People are paired: what both guess badly cancels."""
    found = explain({"model": drawn(0.08, target=1.0)}, column(2), "y", how=HOW)
    assert found.value.ci[0] < found.target.ci[1]
    assert found.gain.ci[0] > 0
    (said,) = told_as_numbers({"z": {"verdict": AT_FLOOR}}, {"z": found.to_dict()})
    assert said.endswith(f"(the target alone: {found.target.value:.1%}).")


def test_a_perceptron_of_few_people_makes_enough_steps():
    """A product, which neither a line nor trees of few people find; sixty steps of a perceptron don't either."""
    generator = np.random.default_rng(0)
    sizes = (300, 300, 1500)
    features = generator.normal(size=(sum(sizes), 8))
    value = features[:, 0] * features[:, 1]
    y = np.zeros(sum(sizes), np.int64)
    few = feature_set(features, y, (value > 0).astype(np.int64), sizes)
    few = replace(few, numbers={name: {"z": value[rows]} for name, rows in parts(sizes).items()})
    found = explain({"model": few}, column(2), None, how=HOW)
    assert found.picked == ("mlp",)
    assert found.regressors["mlp"] > 0.6


def test_one_number_for_everybody_is_an_error():
    same = drawn()
    same = replace(same, numbers={**same.numbers, "test": {"z": np.full(SIZES[2], 7.0)}})
    with pytest.raises(AuditError, match="everybody of the test split has the same number of 'z', 7"):
        explain({"model": same}, column(2), None, how=HOW)


def test_missing_numbers_are_left_out_and_few_are_an_error():
    whole, part = (explain({"model": drawn(0.4, missing=n)}, column(2), None, how=HOW) for n in (0, 900))
    assert part.n < whole.n
    assert part.target is None
    assert part.value.value == pytest.approx(whole.value.value, abs=0.08)
    with pytest.raises(AuditError, match=r"people of the \w+ split have a number of 'z': too few"):
        explain({"model": drawn(missing=N - 20)}, column(2), None, how=HOW)


def test_a_number_that_is_told_is_a_warning_where_the_class_is_at_its_floor():
    told = explain({"model": drawn(0.4)}, column(2), "y", how=HOW).to_dict()
    not_told = explain({"model": drawn(0.0)}, column(2), "y", how=HOW).to_dict()
    at_floor, leaks = {"z": {"verdict": AT_FLOOR}}, {"z": {"verdict": LEAKS}}
    (said,) = told_as_numbers(at_floor, {"z": told})
    assert said.startswith("'z' is at its floor as a class, but features explain ")
    assert told_as_numbers(at_floor, {"z": not_told}) == told_as_numbers(leaks, {"z": told}) == []


def test_an_audit_tells_it_where_there_are_numbers():
    config = AuditConfig(attackers=("linear",), epochs=2, resamples=100, reconstruction=False, beyond=("numbers",))
    data = dataset()
    plain = audit(network(), data, "3", config=config, progress=False)
    assert plain.numbers is None
    numbered = replace(data, numbers={"z": np.where(data.labels["z"] < 0, np.nan, data.labels["z"] * 10.0)})
    found = audit(network(), numbered, "3", original=network(1), config=config, progress=False)
    assert set(json.loads(found.to_json())["numbers"]) == {"z"}
    assert found.numbers["z"]["value"]["value"] > 0.3, "the upper half is brighter by z"
    assert found.phases["numbers_s"] > 0
    assert "The number behind z: share of its variance explained 0." in found.summary()
    assert "; by the original 0." in found.summary()
    assert "number behind" not in plain.summary()


def test_numbers_of_one_attribute_that_can_not_be_read_leave_the_others(tmp_path):
    """And a report is made of what there is, without an original too."""
    config = AuditConfig(attackers=("linear",), epochs=1, resamples=100, reconstruction=False, beyond=("numbers",))
    data = dataset()
    names = {"z": ("low", "middle", "high"), "w": ("low", "middle", "high"), "y": ("dark", "bright")}
    labels = {**data.labels, "w": data.labels["z"]}
    schema = build_schema(labels, names, dict(data.splits), "y", ["z", "w"])
    few = np.where(np.arange(len(data)) % 5 == 0, np.arange(len(data)), np.nan)
    data = replace(data, labels=labels, schema=schema, numbers={"z": data.labels["z"] * 10.0, "w": few})
    found = audit(network(), data, "3", config=config, progress=False)
    assert list(found.numbers) == ["z"]
    assert any("'w' was not read: 24 people of the train split" in said for said in found.warnings)
    jsonschema.Draft202012Validator(load_schema()).validate(json.loads(found.to_json()))
    page = found.save_report(tmp_path / "report.html").read_text()
    assert "no original to compare with" in page


@pytest.mark.parametrize(("values", "said"), [
    (np.zeros(7), r"Expected `numbers\['z'\]` to be of shape \(360,\), one number per image, but got \(7,\)"),
    (np.full(360, "x"), r"Expected `numbers\['z'\]` to be numbers, NaN where missing, but got '<U1'"),
    (np.full(360, np.inf), r"Expected `numbers\['z'\]` to be finite, NaN where missing, but got inf\. First in row 0"),
])  # fmt: skip
def test_numbers_that_are_none_are_refused(values, said):
    with pytest.raises(DataError, match=said):
        replace(dataset(), numbers={"z": values})


def test_an_original_is_regressed_once_for_several_models(monkeypatch):
    made = []
    counted = {"ridge": lambda *given: made.append("ridge") or REGRESSORS["ridge"](*given)}
    monkeypatch.setattr(numbers, "REGRESSORS", counted)
    with remembering():
        first, second = (
            explain({"original": drawn(0.8), "model": drawn(s)}, column(2), "y", how=HOW) for s in (0, 0.3)
        )
    assert len(made) == 3
    assert first.original == second.original
    assert first.value != second.value
