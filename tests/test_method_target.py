"""``--target-leakage``: the search over weights, and a run with the weight that it finds."""

import json

import pytest

from efface.errors import ConfigError
from efface.experiments.presets import find_config
from efface.experiments.target import FACTOR, Trial, chosen, run_to_target, search
from test_compare import PRESET, TINY


def falling(power=1.0, floor=0.0):
    return lambda weight: Trial(weight, min(1.0, weight**-power + floor), 0.9)


@pytest.mark.parametrize("target", [0.5, 0.1, 0.02, 0.004])
@pytest.mark.parametrize("start", [0.3, 8.0, 100.0])
def test_the_search_ends_near_the_least_weight_that_reaches_the_target(start, target):
    made = search(falling(), start, target, trials=16)
    found = chosen(made, target)
    assert found.leakage <= target
    assert found.weight / (1 / target) < 1.26, "the next lower weight is at most a quarter below, and falls short"
    assert len({trial.weight for trial in made}) == len(made), "no weight is trained twice"


def test_few_trials_give_the_best_that_was_seen_and_no_more():
    made = search(falling(), 1.0, 0.001, trials=3)
    assert [trial.weight for trial in made] == [1.0, FACTOR, FACTOR**2]
    assert chosen(made, 0.001) == made[-1]
    assert len(search(falling(floor=0.2), 1.0, 0.1)) == 6


def test_noise_does_not_hide_a_weight_that_reached_the_target():
    """Leakage need not fall with every step: what counts is what was measured."""
    rough = {1.0: 0.5, 4.0: 0.05, 2.0: 0.2}
    made = search(lambda weight: Trial(weight, rough.get(weight, 0.3), 0.9), 1.0, 0.1, trials=4)
    assert chosen(made, 0.1).weight == 4.0


def test_a_run_with_the_weight_that_was_found(tmp_path):
    """Two trials; their trainings are handed over, not repeated; a second call goes on from what is there."""
    quick = ["audit.reconstruction=false", "audit.beyond=[]"]
    sets = [
        *TINY,
        *quick,
        "method.preserve=[skin_tone]",
        "method.name=hsic",
        "method.input_weight=0",
        "engine.original_epochs=3",
    ]
    config, folder = find_config(PRESET, sets), tmp_path / "run"
    result = run_to_target(config, 0.0, folder, progress=False, trials=2)
    front = json.loads((folder / "search" / "front.json").read_text())
    weights = [trial["weight"] for trial in front["trials"]]
    assert len(weights) == 2
    assert all(isinstance(trial["kept"], float) for trial in front["trials"]), "the column to keep was probed"
    assert front["removal_weight"] in weights
    assert (folder / "search" / "front.svg").exists()
    assert f"removal_weight: {front['removal_weight']}" in (folder / "config.yaml").read_text()
    trained = folder / "search" / f"weight-{front['removal_weight']:.4g}" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == trained.read_bytes()
    assert result.audit.split == "test"
    assert result.report.exists()
    time_of = trained.stat().st_mtime_ns
    again = run_to_target(config, 0.0, folder, progress=False, trials=2, resume=True)
    assert trained.stat().st_mtime_ns == time_of
    assert again.audit.fidelity["value"] == result.audit.fidelity["value"]


def test_errors(tmp_path):
    config = find_config(PRESET, TINY)
    wrong = config.updated(["method.name=leace", "model.weights=x.pt"])
    with pytest.raises(ConfigError, match="3 problems") as found:
        run_to_target(wrong, 1.5, tmp_path / "run")
    assert "`--target-leakage` to be between 0 and 1, but got 1.5" in str(found.value)
    assert "a method that has a removal weight to set, but got 'leace'" in str(found.value)
    assert not (tmp_path / "run").exists()
