"""A search for weights: what is searched, who joins, what is cut short, and what is exported."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from optuna.trial import TrialState

from efface.errors import ConfigError, TrainingError
from efface.experiments import find_config
from efface.experiments.paper.cells import Workshop
from efface.experiments.sweep import ceiling, open_study, reclaim, score_of, sweep, trade_off, work
from efface.experiments.sweep_page import Try, ended, front
from efface.experiments.sweep_plan import SEARCHED, Range, Sweep, parse_ranges

TINY = (
    "data.options.n=600",
    "data.size=32",
    "model.options={width: 8}",
    "method.head_width=16",
    "method.decoder_width=16",
    "engine.epochs=1",
    "engine.original_epochs=1",
    "engine.batch_size=64",
    "audit.attackers=[linear]",
    "audit.resamples=100",
)
PRESET = "toyfaces-smiling-glasses"
EPOCHS = find_config(PRESET).engine.epochs


def audit_of(fidelity, best, original=None, kept=None):
    attribute = {
        "best": {"accuracy": best},
        "floors": {"label": 0.5},
        "original_best": original,
        "excess_leakage": None if original is None else (best - 0.5) / (original - 0.5),
    }
    columns = [
        {"column": "hat", "preserved": True, "share": None if kept is None else {"value": kept}},
        {"column": "beard", "preserved": False, "share": {"value": 0.01}},
    ]
    return {
        "fidelity": {"value": fidelity},
        "attributes": {"glasses": attribute},
        "selectivity": {"columns": columns},
    }


@pytest.fixture(scope="module")
def pretended():
    """Cells that are computed, not trained: the higher the removal weight, the less fidelity and leakage."""
    made = []

    def run(self, cell):
        made.append(cell)
        weight = cell.config.method.removal_weight
        share = weight / (weight + 8)
        short = 0.05 if cell.config.engine.epochs < EPOCHS else 0.0
        kept = 1.1 - share if cell.config.method.preserve else None
        return {"audit": audit_of(0.95 - 0.3 * share**2 - short, 0.9 - 0.38 * share, 0.95, kept)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "run", run)
        yield made


@pytest.fixture
def plan(tmp_path):
    return Sweep(PRESET, (), tmp_path / "study", SEARCHED, trials=12, progress=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, pretended):
    """A finished sweep of such cells."""
    made = Sweep(PRESET, (), tmp_path_factory.mktemp("swept") / "study", SEARCHED, trials=12, progress=False)
    sweep(made)
    return made


def test_a_range_is_read_and_a_wrong_one_refused_with_an_example():
    assert parse_ranges([]) == SEARCHED
    assert parse_ranges(["engine.lr=1e-4:1e-2"]) == (Range("engine.lr", 1e-4, 1e-2),)
    with pytest.raises(ConfigError) as caught:
        parse_ranges(["engine.lr", "engine.lr=0:1", "engine.lr=2:1"])
    assert "3 problems" in str(caught.value)
    assert "method.removal_weight=1:64" in str(caught.value)


def test_what_cannot_be_searched_is_refused_before_anything_is_written(tmp_path):
    ranges = (Range("method.name", 1.0, 2.0), Range("nothing.here", 1.0, 2.0))
    plan = Sweep(PRESET, (), tmp_path / "study", ranges, trials=0)
    with pytest.raises(ConfigError) as caught:
        sweep(plan)
    for part in ("3 problems", "`--trials`", "'method.name'", "'nothing.here'"):
        assert part in str(caught.value)
    assert not plan.folder.exists()


def test_trials_read_validation_and_never_test(plan):
    config = plan.config({"method.removal_weight": 3.0}, epochs=3)
    assert config.audit.split == "validation"
    assert (config.method.removal_weight, config.engine.epochs) == (3.0, 3)
    # The original is the same at every rung.
    assert config.engine.original_epochs == find_config(PRESET).engine.original_epochs


def test_the_first_trial_is_the_presets_own(swept):
    first = open_study(swept).trials[0]
    own = find_config(PRESET).method
    assert first.params["method.removal_weight"] == own.removal_weight
    assert first.params["method.input_weight"] == own.input_weight


def test_enough_trials_are_made_and_a_second_call_adds_none(swept, pretended):
    assert len(open_study(swept).trials) == 12
    count = len(pretended)
    sweep(swept)
    assert len(open_study(swept).trials) == 12
    assert len(pretended) == count + 1  # the ceiling is asked for, and kept


def test_weak_trials_are_cut_short(swept):
    trials = open_study(swept).trials
    cut = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert cut
    assert all(list(trial.intermediate_values) == [3] for trial in cut)
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert all(list(trial.intermediate_values) == [3, EPOCHS] for trial in whole)
    best = max(trial.intermediate_values[3] for trial in trials)
    assert all(trial.intermediate_values[3] < best for trial in cut)


def test_the_score_is_the_harmonic_mean_of_fidelity_and_what_does_not_leak():
    found = trade_off(audit_of(0.9, 0.6), {"glasses": 0.9})
    assert found["excess"] == pytest.approx(0.25)
    assert found["score"] == pytest.approx(2 / (1 / 0.9 + 1 / 0.75))
    assert trade_off(audit_of(0.9, 0.99), {"glasses": 0.9})["score"] == 0.0


def test_columns_kept_on_request_are_in_score_and_front(tmp_path, pretended):
    """Each trial is set beside the original, for what is left of a column is a share of what that tells."""
    made = Sweep(PRESET, ("method.preserve=[hat]",), tmp_path / "study", SEARCHED, trials=6, progress=False)
    count = len(pretended)
    sweep(made)
    assert all(cell.beside_original for cell in pretended[count:])
    assert all(cell.config.audit.beyond == ("selectivity",) for cell in pretended[count:])
    tries = ended(open_study(made))
    for one in tries:
        assert one.aum == pytest.approx(3 / (1 / one.fidelity + 1 / (1 - one.excess) + 1 / min(1.0, one.kept)))
    text = (tmp_path / "study" / "sweep.md").read_text()
    assert "| excess leakage | kept | score |" in text
    assert "a probe still finds of hat" in text
    file = next((tmp_path / "study" / "front").glob("*.yaml"))
    assert ", kept " in find_config(str(file)).description
    assert find_config(str(file)).audit == find_config(PRESET).audit
    with pytest.raises(ConfigError, match="sweep of other settings"):
        open_study(Sweep(PRESET, (), made.folder, SEARCHED))


def test_what_is_lost_of_a_kept_column_counts_and_what_it_gains_does_not():
    before = {"glasses": 0.9}
    kept = {share: trade_off(audit_of(0.9, 0.6, kept=share), before)["score"] for share in (-0.1, 0.0, 0.5, 1.0, 1.4)}
    assert kept[-0.1] == kept[0.0] == 0.0 < kept[0.5] < kept[1.0] == kept[1.4]
    assert kept[1.0] == pytest.approx(3 / (1 / 0.9 + 1 / 0.75 + 1))


def test_the_front_knows_what_is_kept():
    """A trial that leaks more, and is no better at the task, is on it where it alone keeps the column."""
    figures = [(0.9, 0.1, 0.2), (0.9, 0.2, 0.9), (0.9, 0.3, 0.9), (0.8, 0.2, 1.0), (0.8, 0.2, 1.3)]
    tries = [Try(i, {}, False, f, e, f, k) for i, (f, e, k) in enumerate(figures)]
    assert [one.number for one in front(tries)] == [0, 1, 3]
    plain = [Try(one.number, {}, False, one.fidelity, one.excess, one.aum) for one in tries]
    assert [one.number for one in front(plain)] == [0]


def test_an_original_that_tells_nothing_ends_the_sweep(plan, monkeypatch):
    monkeypatch.setattr(Workshop, "run", lambda *_: {"audit": audit_of(0.9, 0.5)})
    with pytest.raises(ConfigError, match="tells nothing of 'glasses'"):
        sweep(plan)


def test_a_study_of_other_settings_is_not_joined(swept):
    other = Sweep(PRESET, ("engine.batch_size=64",), swept.folder, SEARCHED, trials=12)
    with pytest.raises(ConfigError, match="sweep of other settings"):
        sweep(other)


def test_a_trial_whose_process_is_gone_begins_again(plan, pretended):
    study = open_study(plan)
    before = ceiling(plan, lambda _: None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lost = study.ask()
    values = {one.name: lost.suggest_float(one.name, one.low, one.high, log=True) for one in SEARCHED}
    lost.set_user_attr("worker", {"host": os.uname().nodename, "pid": gone.pid, "began": "1"})
    mine = study.ask()
    score_of(plan, mine, before, lambda _: None)  # of this process: under way
    reclaim(study)
    assert study.trials[lost.number].state == TrialState.FAIL
    assert study.trials[mine.number].state == TrialState.RUNNING
    again = study.ask()
    assert {one.name: again.suggest_float(one.name, one.low, one.high, log=True) for one in SEARCHED} == values


def test_exported_presets_are_the_front_and_can_be_run(swept):
    best = {f"trial {one.number}": one for one in front(ended(open_study(swept)))}
    files = sorted((swept.folder / "front").glob("*.yaml"))
    assert len(files) == min(len(best), 8)
    chosen = [best.pop(find_config(str(file)).description.split("; ")[1]) for file in files]  # each another
    assert [one.excess for one in chosen] == sorted(one.excess for one in chosen)
    for file, one in zip(files, chosen, strict=True):
        config = find_config(str(file))
        assert config.method.removal_weight == one.values["method.removal_weight"]
        assert f"{one.fidelity:.3f}" in config.description
        assert config.audit == find_config(PRESET).audit  # test is read again
        assert yaml.safe_load(file.read_text())["name"] == file.stem
    text = (swept.folder / "sweep.md").read_text()
    assert "optimistic" in text
    for name in ("sweep-front", "sweep-history", "sweep-values"):
        assert (swept.folder / f"{name}.svg").exists()
        assert (swept.folder / f"{name}.png").exists()


def test_the_front_leaves_out_what_was_cut_short():
    tries = [Try(i, {}, pruned, f, e, f) for i, (pruned, f, e) in enumerate([(True, 0.99, 0.0), (False, 0.9, 0.2)])]
    assert [one.number for one in front(tries)] == [1]


def test_a_sweep_whose_trainings_all_fail_ends(tmp_path, monkeypatch):
    made = []

    def failing(plan, trial, before, tell):
        made.append(trial.number)
        if len(made) == 4:
            return 0.5
        raise TrainingError("the loss is not finite.")

    monkeypatch.setattr("efface.experiments.sweep.score_of", failing)
    plan = Sweep(PRESET, TINY, tmp_path / "study", SEARCHED, trials=2)
    with pytest.raises(TrainingError, match="5 trials in a row failed, the last with: the loss is not finite"):
        work(plan, {}, 0)
    assert len(made) == 9, "one that ends well in between is not forgotten"
    states = [trial.state for trial in open_study(plan).trials]
    assert states.count(TrialState.FAIL) == 8


def test_two_processes_join_one_study(tmp_path):
    out = tmp_path / "study"
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = [sys.executable, "-m", "efface", "sweep", PRESET, "--workers", "2", "--trials", "3", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [*command, "--quiet", *settings], capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    plan = Sweep(PRESET, TINY, out, SEARCHED, trials=3)
    trials = open_study(plan).trials
    ended_ = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert 3 <= len(ended_) <= 4
    assert len({trial.user_attrs["worker"]["pid"] for trial in ended_}) == 2
    made = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    assert len(made) >= 3
    assert len(list((out / "originals").iterdir())) == 1
    assert {cell["audit"]["split"] for cell in made} == {"validation"}
    assert "sweep.html" in done.stdout


def test_neither_optuna_nor_its_databases_are_loaded_needlessly(tmp_path):
    code = (
        "import sys, efface, efface.experiments.sweep as s; assert 'optuna' not in sys.modules;"
        "from efface.experiments.sweep_plan import Sweep; from pathlib import Path;"
        f"s.open_study(Sweep({PRESET!r}, (), Path({str(tmp_path / 'study')!r})));"
        "assert 'optuna' in sys.modules; assert 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_labels_of_the_plots_are_plain_numbers(swept):
    for name in ("sweep-front", "sweep-history", "sweep-values"):
        assert "mathdefault" not in (swept.folder / f"{name}.svg").read_text()
