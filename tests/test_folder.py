"""The run folder: nothing is lost that was not given up, and a run is resumed under its own settings only."""

from pathlib import Path

import pytest
import torch

from efface.config import Config
from efface.errors import CheckpointError, ConfigError
from efface.experiments import RunFolder


def test_a_folder_with_a_run_is_not_overwritten_unasked(tmp_path):
    folder = RunFolder(tmp_path / "a")
    folder.begin(Config(), resume=False, overwrite=False)
    folder.write_json("audit.json", {"kept": 1})
    with pytest.raises(ConfigError, match=r"already holds a run. Go on with --resume, replace it with --overwrite"):
        folder.begin(Config(), resume=False, overwrite=False)
    assert folder.read_json("audit.json") == {"kept": 1}
    folder.begin(Config(), resume=False, overwrite=True)
    assert folder.read_json("audit.json") == {}


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ({"resume": False, "overwrite": True}, {"resume": True, "overwrite": False}):
        with pytest.raises(ConfigError, match="is not empty and holds no run"):
            RunFolder(tmp_path).begin(Config(), **flags)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_spares_files_that_are_not_the_runs(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(Config(), resume=False, overwrite=False)
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin(Config(), resume=False, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_with_other_settings_says_which(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(Config(), resume=False, overwrite=False)
    with pytest.raises(ConfigError, match=r"engine.epochs 10 there, 5 here"):
        folder.begin(Config().updated(["engine.epochs=5"]), resume=True, overwrite=False)
    folder.begin(Config().updated(["audit.epochs=5"]), resume=True, overwrite=False)


def test_default_folders_are_numbered(tmp_path):
    names = []
    for _ in range(3):
        folder = RunFolder.default("demo", resume=False, root=tmp_path)
        folder.begin(Config(), resume=False, overwrite=False)
        names.append(folder.path.name)
    assert names == ["demo", "demo-2", "demo-3"]
    assert RunFolder.default("demo", resume=True, root=tmp_path).path.name == "demo-3"
    assert RunFolder.default("other", resume=True, root=tmp_path).path.name == "other"


def test_weights_round_trip_under_the_models_own_keys(tmp_path, net):
    folder = RunFolder(tmp_path)
    net.to(memory_format=torch.channels_last)
    folder.save_weights("model", net)
    loaded = folder.weights("model")
    assert set(loaded) == set(net.state_dict())
    for key, value in net.state_dict().items():
        assert torch.equal(value, loaded[key])


def test_missing_pieces_name_what_to_do(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no run .* Make one with `efface run`"):
        folder.config()
    with pytest.raises(CheckpointError, match=r"the run is not finished. Go on with"):
        folder.weights("model")
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    with pytest.raises(CheckpointError, match="Cannot read"):
        folder.weights("model")


def test_somebody_elses_config_is_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("my: settings")
    with pytest.raises(ConfigError, match=r"holds a config\.yaml of something else"):
        RunFolder(tmp_path).begin(Config(), resume=False, overwrite=True)
    assert (tmp_path / "config.yaml").read_text() == "my: settings"


def test_a_folder_that_cannot_be_written_is_told():
    with pytest.raises(ConfigError, match="Cannot write '/proc/nothing/here'"):
        RunFolder(Path("/proc/nothing/here")).begin(Config(), resume=False, overwrite=False)
