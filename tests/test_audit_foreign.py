"""Audits of models and embeddings made elsewhere: the folder that is written, and every problem at once."""

import json

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save_file
from torch import nn

from efface.audit.threat import UNKNOWN
from efface.errors import ConfigError, DataError, EffaceError, Problems
from efface.experiments.foreign import Output, audit_arrays, audit_model, model_config, refuse_audit_folder
from efface.report.schema import load_schema

SETTINGS = [
    "data.options={n: 400}", "data.size=32", "audit.attackers=[linear]", "audit.beyond=[fairness]",
    "audit.resamples=200", "audit.epochs=2",
    "audit.reconstruction_epochs=1",
]  # fmt: skip


def build(num_classes, width=4):
    """The user's own function."""
    torch.manual_seed(0)
    low = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU())
    high = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
    return nn.Sequential(low, high, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes))


NAME = f"{__name__}:build"


def config(weights=None, at=("1",), sets=(), **model):
    settings = {
        "name": "theirs",
        "data": {"source": "toyfaces", "target": "smiling", "attributes": ["glasses"]},
        "model": {"name": NAME, "at": list(at), "weights": weights, **model},
        "audit": {},
    }
    return model_config(settings, [*SETTINGS, *sets])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build(2).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("foreign") / "out"
    made = config(weights, ("1", "0"), ["audit.layers=[0]"])
    return audit_model(made, original=weights, output=Output(out, progress=False))


def test_the_folder_holds_what_was_promised(done):
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {"audit.json", "report.html", "environment.json", "config.yaml", "features"}
    values = json.loads((done.folder / "audit.json").read_text())
    assert list(Draft202012Validator(load_schema()).iter_errors(values)) == []
    assert values["model"]["name"] == NAME
    assert {"read_s", "audit_s", "report_s", "peak_rss_mb"} <= set(values["phases"])
    page = (done.folder / "report.html").read_text()
    assert "theirs" in page
    assert "removal_weight" not in (done.folder / "config.yaml").read_text()


def test_every_layer_named_is_attacked_and_the_first_is_the_verdict(done):
    assert done.audit.model["at"] == "1"
    assert done.audit.model["feature_shape"] == [8, 8, 8]
    assert list(done.audit.other_layers) == ["0"]
    assert done.audit.other_layers["0"]["feature_shape"] == [4, 16, 16]
    assert "verdict" in done.audit.other_layers["0"]["attributes"]["glasses"]
    layers = [point["layer"] for point in done.audit.layers["glasses"]["points"]]
    assert [layers[0], layers[-1]] == ["input", "logits"]
    assert {"0", "1"} <= set(layers)


def test_the_same_weights_before_and_after_leak_as_before(done):
    entry = done.audit.attributes["glasses"]
    assert entry["original_best"] == entry["best"]["accuracy"]
    assert entry["excess_leakage"] in (None, 1.0)
    assert done.audit.threat["trained_on"] == UNKNOWN


def test_an_audit_is_not_overwritten_unasked(done, weights):
    with pytest.raises(ConfigError, match=r"already holds an audit\. Replace it with --overwrite"):
        audit_model(config(weights), output=Output(done.folder, progress=False))
    with pytest.raises(ConfigError, match="holds an audit of something made elsewhere"):
        refuse_audit_folder(done.folder)


def test_all_problems_are_told_at_once(done, tmp_path):
    made = config(tmp_path / "no.safetensors", ("7",), ["data.target=smilng", "audit.attackers=[liner]"])
    with pytest.raises(ConfigError) as error:
        audit_model(made, original=tmp_path / "none.pt", output=Output(done.folder, progress=False))
    text = str(error.value)
    for part in ("already holds an audit", "liner", "smilng", "`--weights`", "`--original`", "'7'"):
        assert part in text, text
    assert text.startswith("6 problems")
    assert "problems:\n1. 2 problems" not in text


def test_an_unknown_model_is_told_with_the_data(tmp_path):
    made = config(None, ("layer9",), ["data.target=smilng", f"model.name={__name__}:biuld"])
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*smilng.*Did you mean 'build'"):
        audit_model(made, output=Output(tmp_path, progress=False))
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten(tmp_path, weights):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="holds a run"):
        audit_model(config(weights), output=Output(tmp_path, overwrite=True, progress=False))


def test_plain_networks_keep_their_own_stem():
    assert config().model.stem == "standard"
    assert config(stem="small").model.stem == "small"
    assert config().audit.suite == "standard"
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*epoch.*Did you mean 'epochs'"):
        config(sets=["audit.epoch=1", "seed=-1"])


def test_random_weights_are_told(tmp_path):
    made = config(None, ("layer1",), ["model.name=resnet18", "model.options={width: 8}"])
    found = audit_model(made, output=Output(tmp_path / "out", progress=False))
    assert any("none were given" in text for text in found.audit.warnings)


def test_embeddings_make_the_same_folder(tmp_path):
    z = np.arange(600) % 2
    np.save(tmp_path / "h.npy", np.random.default_rng(0).normal(size=(600, 4)) + z[:, None])
    (tmp_path / "labels.csv").write_text("z\n" + "\n".join("ab"[i] for i in z) + "\n")
    arrays = {"features": tmp_path / "h.npy", "labels": tmp_path / "labels.csv", "attributes": ["z"]}
    made = model_config({"name": "vectors", "audit": {}}, SETTINGS)
    found = audit_arrays(arrays, made, Output(tmp_path / "out", progress=False))
    assert found.audit.attributes["z"]["verdict"] == "leaks"
    assert found.report.exists()
    assert str(tmp_path / "h.npy") in (found.folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"(?s)3 problems.*already holds.*a file that exists.*no such file"):
        audit_arrays(
            {**arrays, "features": "no.npy", "labels": "no.csv"}, made, Output(tmp_path / "out", progress=False)
        )


def test_a_single_problem_keeps_its_kind():
    def fail():
        raise DataError("Nothing there.")

    problems = Problems(ConfigError)
    assert problems.attempt(fail) is None
    assert problems.attempt(lambda: 3) == 3
    with pytest.raises(DataError, match=r"^Nothing there\.$"):
        problems.raise_if_any()
    problems.attempt(fail)
    with pytest.raises(EffaceError, match="2 problems"):
        problems.raise_if_any()


def test_other_peoples_files_are_never_overwritten(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    arrays = {"features": np.zeros((4, 2)), "labels": {"z": ["a", "b"] * 2}, "attributes": ["z"]}
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no audit"):
            audit_arrays(arrays, model_config({"name": "v", "audit": {}}, SETTINGS), Output(tmp_path, overwrite))
    assert (tmp_path / "report.html").read_text() == "mine"
