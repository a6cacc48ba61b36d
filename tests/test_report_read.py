"""Reading a run folder: what is refused, and that the checker agrees with the published schema."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.errors import CheckpointError
from efface.report import render_report
from efface.report.folder import check_audit
from efface.report.schema import findings, load_schema
from sample_run import audit, bare_audit, full_audit


def test_missing_audit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No audit\.json in the run folder .*Run `efface audit .*nothing`"):
        render_report(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": "1.0", ', r"Cannot read '.*audit\.json': .*Run `efface audit"),
        ("[1]", r"to be an object with the results of an audit, but got \[1\]"),
        ('{"schema_version": "2.0"}', r"schema_version` to be 1\.1 \(any 1\.x is read\), but got '2\.0'\. Run"),
        ("{}", r"schema_version` to be 1\.1 .* but got None"),
        ('{"schema_version": "1.3"}', r"5 problems:\n1\. .*`name` is missing.*\n2\. .*`data` is missing"),
    ],
)
def test_damaged_audit(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        render_report(tmp_path)


def test_all_departures_are_told_at_once() -> None:
    values = audit()
    values["attributes"]["glasses"]["verdict"] = "removed"
    values["fidelity"]["value"] = "high"
    values["attributes"]["skin tone"]["best"]["ci"] = [0.1]
    with pytest.raises(CheckpointError) as error:
        check_audit(values)
    assert "`attributes.glasses.verdict` should be one of 'leaks'" in str(error.value)
    assert "`fidelity.value` should be a number or null, but is 'high'" in str(error.value)
    assert "`attributes.skin tone.best.ci` should have 2 items, but has 1" in str(error.value)


@pytest.mark.parametrize("values", [audit(), bare_audit(), full_audit()])
def test_samples_follow_the_published_schema(values: dict) -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())
    jsonschema.Draft202012Validator(load_schema()).validate(values)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_own_checker_agrees_with_jsonschema(data: st.DataObject) -> None:
    values = copy.deepcopy(data.draw(st.sampled_from([audit(), full_audit()])))
    for _ in range(data.draw(st.integers(1, 3))):
        node: object = values
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))  # type: ignore[arg-type]
            key = data.draw(st.sampled_from(keys))
            child = node[key]  # type: ignore[index]
            if not isinstance(child, dict | list) or not child or data.draw(st.booleans()):
                break
            node = child
        replacement: st.SearchStrategy = st.sampled_from([None, 1, 1.5, 2.0, "text", [], {}, [1, "a"], True, ...])
        drawn = data.draw(replacement)
        if drawn is ...:
            del node[key]  # type: ignore[attr-defined]
        else:
            node[key] = drawn  # type: ignore[index]
        if not values:
            break
    valid = jsonschema.Draft202012Validator(load_schema()).is_valid(values)
    assert valid == (not list(findings(values)))
