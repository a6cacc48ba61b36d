"""`efface compare`: one original for all, a row per method and seed; cells that are kept, killed or fail; errors."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import efface as efface_package
from efface.audit import remembered
from efface.config import Config
from efface.errors import AuditError, ConfigError, TrainingError
from efface.experiments import cells
from efface.experiments import compare as module
from efface.experiments.cells import Cell, train_apart
from efface.experiments.compare import compare
from efface.experiments.leaderboard import Leaderboard, row_of
from efface.experiments.presets import find_config
from efface.experiments.variants import chosen, read_variants, settled
from efface.methods import METHODS
from efface.report.pareto import Point, front

TINY = [
    "data.options={n: 300}",
    "data.size=32",
    "model.name=resnet18",
    "model.stem=small",
    "model.options={width: 8}",
    "model.at=layer4",
    "engine.epochs=1",
    "engine.original_epochs=1",
    "engine.batch_size=64",
    "engine.threads=1",
    "engine.device=cpu",
    "method.head_width=8",
    "audit.epochs=1",
    "audit.attackers=[linear]",
    "audit.resamples=50",
]
PRESET = "toyfaces-smiling-glasses"
COLUMNS = {
    *("method", "seed", "fidelity", "fidelity_original", "best_accuracy", "label_floor", "excess_leakage"),
    *("selectivity", "aum", "certified", "train_s", "peak_rss_mb"),
    *("n", "fidelity_ci", "best_ci", "excess_leakage_ci", "preserved"),
}


def efface(*arguments):
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "efface", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=280, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "one"
    sets = [f"--set={text}" for text in TINY]
    methods = "task_bottleneck,random_projection,original"
    done = efface("compare", PRESET, *sets, "--methods", methods, "--seeds", 1, "-q", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "leaderboard.json" in done.stdout
    return folder


def board(folder):
    return json.loads((folder / "leaderboard.json").read_text())


def test_a_row_per_method_with_every_column(finished):
    found = board(finished)
    assert [row["method"] for row in found["rows"]] == ["original", "task_bottleneck", "random_projection"]
    for row in found["rows"]:
        assert set(row) >= COLUMNS
        assert row["seed"] == 0
        assert 0 <= row["label_floor"] <= row["original_accuracy"] <= 1
        assert 0 <= row["fidelity"] <= 1
        assert row["train_s"] > 0
        assert row["peak_rss_mb"] > 100
        assert set(row["selectivity"]) == {"hair_colour", "skin_tone", "hat", "age_lines"}
    assert found["environment"]["command"].startswith("efface compare")
    assert str(finished) not in (finished / "leaderboard.json").read_text()
    assert {"config", "suite", "methods", "failed", "pending"} <= set(found)
    assert found["failed"] == found["pending"] == []
    text = (finished / "leaderboard.md").read_text()
    assert all(f"{name}" in text for name in ("original", "task_bottleneck", "random_projection"))
    assert (finished / "pareto.svg").read_text().startswith("<?xml")
    assert (finished / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_all_methods_start_from_the_one_original(finished):
    rows = {row["method"]: row for row in board(finished)["rows"]}
    assert len({row["fidelity_original"] for row in rows.values()}) == 1
    assert len({row["original_accuracy"] for row in rows.values()}) == 1
    assert rows["original"]["fidelity"] == rows["original"]["fidelity_original"]
    assert rows["original"]["excess_leakage"] in (None, 1.0)
    assert rows["task_bottleneck"]["certified"] is not None
    assert rows["original"]["certified"] is None
    assert list((finished / "seed-0").glob("*/original.safetensors")) == [
        finished / "seed-0" / "original" / "original.safetensors"
    ]


def test_finished_cells_are_kept_and_a_killed_one_is_made_again(finished, monkeypatch):
    """What counts: the kept cell is not touched, the other ends with the same figures, a further method joins.

    The original is attacked and probed once for both, with what a whole audit of its own finds.
    """
    attacks, probes, read_off = [], [], []
    audits = importlib.import_module("efface.audit.audit")  # `from efface.audit import audit` is the function
    extract = audits.extract_layers
    monkeypatch.setattr(audits, "extract_layers", lambda *given, **more: read_off.append(1) or extract(*given, **more))
    run_suite, read = remembered.run_suite, remembered.read_many
    monkeypatch.setattr(remembered, "read_many", lambda *given: probes.extend(c.name for c in given[1]) or read(*given))
    monkeypatch.setattr(remembered, "run_suite", lambda *given: attacks.append(given) or run_suite(*given))
    place = finished / "seed-0"
    kept, killed = place / "random_projection" / "cell.json", place / "task_bottleneck"
    before = {row["method"]: row for row in board(finished)["rows"]}
    time_of = kept.stat().st_mtime_ns
    for name in ("cell.json", "training.json", "model.safetensors"):
        (killed / name).unlink()
    config = find_config(PRESET, TINY)
    methods = "task_bottleneck,random_projection,original,leace"
    found, folder = compare(config, methods, 1, finished, overrides=TINY, resume=True, progress=False)
    assert folder == finished
    after = {row["method"]: row for row in found.rows}
    assert kept.stat().st_mtime_ns == time_of
    assert after["random_projection"] == before["random_projection"]
    changing = {"train_s", "peak_rss_mb", "made"}
    assert {k: v for k, v in after["task_bottleneck"].items() if k not in changing} == {
        k: v for k, v in before["task_bottleneck"].items() if k not in changing
    }
    assert after["task_bottleneck"]["made"] == found.about["environment"]["started"]
    first = {row["made"] for row in before.values()}
    assert {one["started"] for one in found.about["joined"]} == first - {after["task_bottleneck"]["made"]}
    assert len(attacks) == 1
    assert len(read_off) == 3, "two models, and the original once"
    assert sorted(probes) == sorted(after["leace"]["selectivity"])
    assert after["leace"]["original_accuracy"] == before["original"]["original_accuracy"]
    assert after["leace"]["fidelity_original"] == before["original"]["fidelity"]
    with pytest.raises(ConfigError, match="already holds a run"):
        compare(config, methods, 1, finished, progress=False)
    with pytest.raises(ConfigError, match="begun with other settings"):
        compare(config.updated(["engine.lr=0.5"]), methods, 1, finished, resume=True, progress=False)


def test_rows_that_were_made_elsewhere_are_not_made_again(finished, tmp_path, monkeypatch):
    """Another folder, threads and place of the data; a cell that no file has is made."""
    made, wanted = [], board(finished)["rows"]

    def cell(self, method, seed):
        made.append((method, seed))
        return {**wanted[0], "method": method, "seed": seed, "fingerprint": self.mark(method, seed)}

    monkeypatch.setattr(module.Comparison, "_cell", cell)
    tiny = [*TINY, "engine.threads=2", f"data.cache={tmp_path}"]
    methods, files = ["random_projection", "task_bottleneck"], [finished / "leaderboard.json"]
    found, folder = compare(
        find_config(PRESET, tiny), methods, 2, tmp_path / "all", overrides=tiny, join=files, progress=False
    )
    assert made == [(method, 1) for method in methods]
    assert found.rows[:2] == [row for name in methods for row in wanted if row["method"] == name]
    text = (folder / "leaderboard.md").read_text()
    assert board(finished)["environment"]["command"] in text
    again, _ = compare(
        find_config(PRESET, tiny), methods, 2, tmp_path / "b", overrides=tiny, join=[folder / "leaderboard.json"] * 2
    )
    assert len(made) == 2, "rows of rows that were joined"
    assert len(again.about["joined"]) == 2
    other = board(finished)
    other["config"]["method"]["removal_weight"] = 3.0
    other["rows"][1]["fingerprint"] = "made with it"
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "none.json").write_text(json.dumps({**other, "rows": [{**other["rows"][1], "fingerprint": "x"}]}))
    files = [tmp_path / "none.json", finished / "leaderboard.json", tmp_path / "other.json"]
    third, _ = compare(find_config(PRESET, tiny), methods, 1, tmp_path / "d", overrides=tiny, join=files)
    assert len(made) == 2
    assert {one["started"] for one in third.about["joined"]} == {row["made"] for row in third.rows}, "of rows taken"
    compare(find_config(PRESET, tiny), methods, 1, tmp_path / "c", overrides=tiny, join=[tmp_path / "other.json"])
    assert made[2:] == [(other["rows"][1]["method"], 0)], "that row alone is made again"


def test_rows_of_other_settings_are_not_joined(finished, tmp_path):
    """All problems at once, before anything is made."""
    other, foreign, missing = tmp_path / "other.json", tmp_path / "foreign.json", tmp_path / "missing.json"
    value = board(finished)
    value["config"]["engine"]["lr"], value["preserve"] = 0.5, ["hat"]
    other.write_text(json.dumps(value))
    foreign.write_text("[]")
    broken = [tmp_path / f"broken-{number}.json" for number in range(3)]
    for path, damage in zip(broken, ({"rows": 5}, {"rows": [{"method": "leace"}]}, {"environment": {}}), strict=True):
        path.write_text(json.dumps({**board(finished), **damage}))
    files = [other, foreign, missing, *broken]
    with pytest.raises(ConfigError) as caught:
        compare(find_config(PRESET, TINY), "leace", 1, tmp_path / "c", overrides=TINY, join=files)
    assert len(caught.value.problems) == 6
    for text in (
        "engine.lr 0.5 there, 0.002 here",
        "columns to keep ['hat'] there, [] here",
        "the leaderboard.json of `efface compare`",
        "missing.json",
    ):
        assert text in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_the_original_is_attacked_on_whole_images_when_the_model_has_masked_ones(finished, tmp_path, monkeypatch):
    folder, seen = shutil.copytree(finished, tmp_path / "one"), {}
    (folder / "seed-0" / "random_projection" / "cell.json").unlink()

    def stopped(model, data, at, **settings):
        seen.update(settings, data=data)
        raise AuditError("enough")

    monkeypatch.setattr(module, "released_data", lambda data, *_: "masked")
    monkeypatch.setattr(module, "audit", stopped)
    found, _ = compare(
        find_config(PRESET, TINY), "random_projection", 1, folder, overrides=TINY, resume=True, progress=False
    )
    assert [row["error"] for row in found.failed] == ["enough"]
    assert seen["data"] == "masked"
    assert seen["original_data"].image_shape == (3, 32, 32)


def test_a_method_s_own_settings_and_the_user_s(tmp_path):
    config = find_config(PRESET, TINY)
    made = module.Comparison(config, ("hsic",), (0,), ("method.variant=conditional",), module.RunFolder(tmp_path))
    found = made.settings("hsic", 3)
    assert (found.method.name, found.seed, found.method.removal_weight) == ("hsic", 3, 4.0)
    assert found.method.variant == "conditional", "what the user sets wins over what the method suggests"
    assert found.method.head_width == 8
    assert made.settings("detachment", 0).method.removal_weight == config.method.removal_weight
    assert found.engine == config.engine, "one budget"


def test_a_cell_that_fails_is_told_and_the_others_are_made(tmp_path, monkeypatch):
    def failing(cell):
        if cell.config.method.name == "leace":
            raise TrainingError("loss not finite")
        if cell.config.method.name == "inlp":
            raise torch.OutOfMemoryError("CUDA out of memory.\nOf 80 GiB, none is free.")
        return cells.train(cell)

    monkeypatch.setattr(module, "train_apart", failing)
    config = find_config(PRESET, TINY)
    audited, where = [], torch.device("cpu")
    monkeypatch.setattr(module, "device_for", lambda engine: audited.append(engine) or where)
    found, folder = compare(config, "leace,inlp,original", 1, tmp_path / "c", progress=False)
    assert [row["method"] for row in found.rows] == ["original"]
    assert audited == [config.engine] * 2, "both models are audited where `engine.device` says"
    assert list(found.failed) == [
        {"method": "leace", "seed": 0, "error": "loss not finite"},
        {"method": "inlp", "seed": 0, "error": "OutOfMemoryError: CUDA out of memory."},
    ]
    assert "Failed: leace, seed 0: loss not finite" in (folder / "leaderboard.md").read_text()


KILLED = """
import os, signal
def build(num_classes):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_training_that_is_killed_or_fails_says_so(tmp_path, monkeypatch):
    (tmp_path / "killed_net.py").write_text(KILLED)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = find_config(PRESET, TINY)
    cell = Cell(config.updated(["model.name=killed_net:build", "model.options={}"]), tmp_path / "run")
    with pytest.raises(TrainingError, match="was killed by SIGKILL"):
        train_apart(cell)
    with pytest.raises(ConfigError, match="resnet1"):
        train_apart(Cell(config.updated(["model.name=resnet1"]), tmp_path / "run"))
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_errors_are_told_at_once_before_anything_is_trained(tmp_path):
    with pytest.raises(ConfigError, match="2 problems") as found:
        chosen("leac,hsci", {})
    assert "'leac' in --methods. Did you mean 'leace'" in str(found.value)
    assert "'hsci' in --methods. Did you mean 'hsic'" in str(found.value)
    with pytest.raises(ConfigError, match="at least one name"):
        chosen(" , ", {})
    assert chosen("all", {})[0] == "original"
    assert sorted(chosen("all", {})) == METHODS.names()
    config = find_config(PRESET, TINY)
    with pytest.raises(ConfigError) as found:
        compare(config, "leace,narrow,vclub", 1, tmp_path / "c", overrides=["method.preserve=[hatt]"], progress=False)
    assert str(found.value).startswith("narrow, vclub: `method.preserve` names 'hatt'. Did you mean 'hat'?")
    with pytest.raises(ConfigError, match="`--seeds` to be at least 1, but got 0"):
        compare(config, "original", 0, tmp_path)
    wrong = config.updated(["method.attribute_weights={hat: 1.0}"])
    with pytest.raises(ConfigError, match=r"adversarial: .*'hat'"):
        compare(wrong, "original,adversarial", 1, tmp_path / "c", progress=False)
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a run or an audit"):
        compare(config, "original", 1, tmp_path, progress=False)
    assert not (tmp_path / "c").exists()


# ---------------------------------------------------------------- the table and the front


def test_the_front_is_what_no_other_method_beats():
    points = [Point(str(n), ((x, y),)) for n, (x, y) in enumerate([(0.5, 0.9), (0.1, 0.7), (0.1, 0.8), (0.4, 0.75)])]
    assert front(points) == ["2", "0"]
    naive = [a.name for a in points if not any(b.leakage <= a.leakage and b.fidelity > a.fidelity for b in points)]
    assert set(front(points)) == set(naive) - {"3"}
    assert Point("", ((0.0, 1.0), (1.0, 0.5))).leakage == 0.5


def entry(excess, accuracy=0.7):
    return {
        "n": 400,
        "best": {"attacker": "mlp", "accuracy": accuracy, "ci": [accuracy - 0.05, accuracy + 0.05]},
        "highest": {"accuracy": accuracy + 0.01, "excess_leakage": None if excess is None else excess + 0.1},
        "attackers": [{"name": "mlp", "conditional_bits": 0.1}],
        "floors": {"majority": 0.5, "label": 0.6},
        "original_best": 0.9,
        "excess_leakage": excess,
        "excess_leakage_ci": None if excess is None else [excess - 0.1, excess + 0.1],
        "aum": 0.8,
        "verdict": "leaks",
    }


def audited(fidelity, **attributes):
    columns = [{"column": "hat", "share": {"value": 0.4}}, {"column": "beard", "share": None}]
    others = {"columns": [{**column, "preserved": column["share"] is None} for column in columns]}
    return {
        "fidelity": {"value": fidelity, "ci": [fidelity - 0.02, fidelity + 0.02], "original": 0.95},
        "attributes": attributes,
        "selectivity": {**others, "median_share": 0.4},
    }


def test_a_row_is_of_the_attribute_that_leaks_most():
    found = row_of(
        "x", 1, audited(0.9, a=entry(0.2), b=entry(0.7, 0.8), c=entry(None)), {"train_s": 1, "peak_rss_mb": 2}
    )
    assert (found["attribute"], found["excess_leakage"], found["best_accuracy"]) == ("b", 0.7, 0.8)
    assert found["highest_excess_leakage"] == pytest.approx(0.8)
    assert found["selectivity"] == {"hat": 0.4, "beard": None}
    assert found["preserved"] == ["beard"]
    assert (found["fidelity_ci"], found["n"]) == ([0.88, 0.92], 400)
    assert found["best_ci"] == pytest.approx([0.75, 0.85])
    assert found["excess_leakage_ci"] == pytest.approx([0.6, 0.8])
    assert set(found["attributes"]) == {"a", "b", "c"}
    assert (found["kept_share"], found["median_selectivity"]) == (None, 0.4)
    asked = row_of("x", 1, audited(0.9, a=entry(0.2)), {"train_s": 1, "peak_rss_mb": 2}, ["hat", "beard"])
    assert (asked["kept_share"], asked["median_selectivity"]) == (0.4, None)


def test_means_spread_and_order():
    cost = {"train_s": 10.0, "peak_rss_mb": 500.0}
    rows = [
        row_of("good", 0, audited(0.90, z=entry(0.0)), cost),
        row_of("good", 1, audited(0.92, z=entry(0.2)), cost),
        row_of("bad", 0, audited(0.80, z=entry(0.5) | {"certificate": {"bound": 0.54, "tighter": 0.5331}}), cost),
    ]
    about = {
        "name": "n", "suite": "quick", "split": "test", "target": "y", "attributes": ["z"], "config": {"data": {}},
        "environment": {"hardware": {"cpu": "c", "cores": 1, "accelerator": "none"}, "started": "2026",
                        "torch": "2", "command": "x"},
    }  # fmt: skip
    made = Leaderboard(rows, [], [{"method": "bad", "seed": 1}], about)
    good, bad = made.methods
    assert (good["method"], good["fidelity"], good["spread"]["fidelity"]) == ("good", pytest.approx(0.91), [0.90, 0.92])
    assert (good["on_front"], bad["on_front"], good["certified"]) == (True, False, None)
    text = made.to_markdown()
    assert "| **good** | 0.910 (0.900 to 0.920) |" in text
    assert bad["certified"] == 0.5331
    assert "| 0.534 |" in text, "the exact bound, which must not shrink in print"
    assert "Not yet made: bad, seed 1" in text
    assert "alike (over seeds that both have; ties count): bad by good." in text
    assert "means of other seeds are not quite comparable" in text
    even = Leaderboard([rows[0], rows[2]], [], [], about).to_markdown()
    assert "originals" not in text
    assert "not quite comparable" not in even
    elsewhere = [*rows, {**rows[2], "method": "joined", "fidelity_original": 0.94}]
    assert "- Seed 0 has 2 originals: fidelity 0.940, 0.950." in Leaderboard(elsewhere, [], [], about).to_markdown()


def test_a_method_is_beaten_only_where_nothing_speaks_for_it():
    cost = {"train_s": 10.0, "peak_rss_mb": 500.0}

    def board(**methods):
        rows = []
        for name, (fidelity, excess, share, *asked) in methods.items():
            audit = audited(fidelity, z=entry(excess))
            audit["selectivity"]["columns"] = [
                {"column": column, "preserved": column == "beard", "share": None if value is None else {"value": value}}
                for column, value in zip(("hat", "beard"), (share, *asked), strict=False)
            ]
            rows.append(row_of(name, 0, audit, cost, ["beard"]))
        return {one["method"]: one["beaten_by"] for one in Leaderboard(rows, [], [], {}).methods}

    assert board(a=(0.9, 0.1, 0.5), b=(0.9, 0.2, 0.5)) == {"a": [], "b": ["a"]}
    assert board(a=(0.9, 0.1, 0.5), b=(0.9, 0.1, 0.5)) == {"a": [], "b": []}
    assert board(a=(0.9, 0.1, 0.0), b=(0.8, 0.2, 0.1)) == {"a": [], "b": []}
    assert board(a=(0.9, 0.1, 0.5), b=(0.8, 0.2, 0.1), c=(0.7, 0.3, 0.0)) == {"a": [], "b": ["a"], "c": ["a", "b"]}
    # No other column to probe: the two that are left decide. A figure that only one has decides nothing.
    assert board(a=(0.9, 0.1, None), b=(0.8, 0.2, None)) == {"a": [], "b": ["a"]}
    assert board(a=(0.9, 0.1, None), b=(0.8, 0.2, 0.1)) == {"a": [], "b": []}
    # Columns to keep count by the least of them, and no more than in full.
    assert board(a=(0.9, 0.1, 0.5, 0.2), b=(0.8, 0.2, 0.5, 0.9)) == {"a": [], "b": []}
    assert board(a=(0.9, 0.1, 0.5, 1.0), b=(0.8, 0.2, 0.5, 1.3)) == {"a": [], "b": ["a"]}
    assert board(a=(0.9, 0.1, 1.0), b=(0.8, 0.2, 1.004)) == {"a": [], "b": ["a"]}


def test_methods_are_set_against_each_other_on_seeds_that_both_have():
    """An easy seed that only one has proves nothing."""

    def board(*cells):
        rows = [
            row_of(name, seed, audited(fidelity, z=entry(0.1)), {"train_s": 1.0, "peak_rss_mb": 1.0})
            for name, seed, fidelity in cells
        ]
        return {one["method"]: (one["on_front"], one["beaten_by"]) for one in Leaderboard(rows, [], [], {}).methods}

    easy = board(("a", 0, 0.8), ("b", 0, 0.9), ("a", 1, 1.0), ("a", 2, 1.0))
    assert easy == {"a": (False, ["b"]), "b": (True, [])}
    assert board(("a", 0, 0.9), ("b", 1, 0.8)) == {"a": (True, []), "b": (True, [])}


# ---------------------------------------------------------------- variants


WIDTHS = {
    "wide": {"name": "random_projection", "eraser": {"keep": 0.9}},
    "own": {"removal_weight": 3},
    "kept": {"name": "adversarial", "preserve": ["hat"]},
}


def test_variants_are_methods_with_settings_of_their_own(tmp_path):
    path = tmp_path / "v.yaml"
    path.write_text(yaml.safe_dump(WIDTHS))
    config, found = find_config(PRESET, TINY), read_variants(path)
    made = module.Comparison(
        config, tuple(found), (0,), ("method.head_width=4",), module.RunFolder(tmp_path), variants=found
    )
    wide, own, kept = (made.settings(name, 5) for name in WIDTHS)
    assert (wide.name, wide.seed, wide.method.name, wide.method.eraser.keep) == ("wide", 5, "random_projection", 0.9)
    assert wide.method.eraser.dimensions == config.method.eraser.dimensions, "sections are merged"
    assert own.method == config.method.model_copy(update={"removal_weight": 3.0, "head_width": 4})
    assert (kept.method.preserve, kept.method.removal_weight) == (("hat",), 1.0)
    assert {one.method.head_width for one in (wide, own, kept)} == {4}, "the command line wins"
    assert chosen("own,leace", found) == ("own", "leace")
    assert {"wide", "hsic"} < set(chosen("all", found))


def test_variants_stand_beside_each_other_in_one_table(finished, tmp_path):
    path, folder = tmp_path / "v.yaml", shutil.copytree(finished, tmp_path / "one")
    path.write_text(yaml.safe_dump({name: {"name": "random_projection", "eraser": {"keep": keep}}
                                    for name, keep in {"most": 0.9, "some": 0.3}.items()}))  # fmt: skip
    sets = [f"--set={text}" for text in TINY]
    run = efface("compare", PRESET, "--variants", path, "--seeds", 1, "--out", folder, "--resume", "-q", *sets)
    assert run.returncode == 0, run.stdout + run.stderr
    found = board(folder)
    assert {row["method"] for row in found["rows"]} == {"most", "some"}
    assert found["variants"]["most"]["eraser"] == {"keep": 0.9}
    assert (folder / "seed-0" / "some" / "audit.json").exists()


ABLATIONS = sorted((Path(__file__).parents[1] / "benchmarks" / "ablations").glob("*.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_our_ablations_are_of_settings_that_exist(path):
    found, config = read_variants(path), find_config("utkface-gender-race")
    methods = [settled(config, name, found).method for name in found]
    if path.stem == "narrow":
        assert {m.name for m in methods} == {"narrow", "detachment"}
        assert [name for name, m in zip(found, methods, strict=True) if m.preserve] == [
            "age-kept",
            "age-kept-removal-32",
        ]
    assert len({method.model_dump_json() for method in methods}) == len(found) > 2, "no two are the same"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{leace: {}}", "'leace' is a method"),
        ("{a/b: {}}", "to name a folder, but got 'a/b'"),
        ("{a: 3}", "a: to be a mapping|`.*a` to be a mapping of settings"),
        ("{a: {name: leac}}", "a: unknown method 'leac'. Did you mean 'leace'"),
        ("{a: {name: original}}", "the original is one for all"),
        ("all: {name: narrow}", "'all' is every method"),
        ("{}", "a YAML mapping of variants"),
    ],
)
def test_wrong_variants(tmp_path, text, message):
    path = tmp_path / "v.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_variants(path)


def test_wrong_settings_of_variants_are_told_together_before_anything_is_made(tmp_path):
    found = {
        "a": {"removal_wight": 1},
        "b": {"name": "narrow", "narrow": {"channels": -1}},
        "c": {"preserve": ["hatt"]},
    }
    for wrong, texts in (
        (found, ("a: Unknown setting `method.removal_wight`", "b: `method.narrow.channels`")),
        ({"d": {}, "c": found["c"]}, ("c: `method.preserve` names 'hatt'",)),
        ({"e": {"head_width": 8}}, ("e: its method is the preset's, the original",)),
    ):
        config = find_config(PRESET, [*TINY, *(["method.name=original"] if "e" in wrong else [])])
        with pytest.raises(ConfigError) as caught:
            compare(config, list(wrong), 1, tmp_path / "c", variants=wrong, progress=False)
        for text in texts:
            assert text in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_a_preset_keeps_its_settings_for_its_own_method(tmp_path):
    config = find_config("utkface-gender-race")
    methods = ("quantised", "adversarial", "leace", "narrow")
    made = module.Comparison(config, methods, (0,), (), module.RunFolder(tmp_path))
    own, other, plain, narrow = (made.settings(name, 0).method for name in made.methods)
    assert own == config.method
    assert (narrow.target_weight, narrow.removal_weight, narrow.preserve_weight) == (4, 16, 8)
    assert (other.removal_weight, other.preserve, plain.preserve) == (1.0, ("age_bin",), ())
    for override, message in (
        ("method.name=leace", "--methods says which are made"),
        ("method={name: leace}", "name its settings, method.KEY=VALUE"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(config, "leace", 1, tmp_path / "c", overrides=[override], progress=False)


def test_comparison_and_search_are_called_from_python():
    assert efface_package.compare is compare
    assert efface_package.run_to_target.__module__ == "efface.experiments.target"


def test_the_configuration_is_the_preset_s_but_for_the_audit():
    config = Config.from_mapping({"name": "n", "audit": {"attackers": ("linear",), "suite": "quick"}})
    asked, not_asked = module.with_suite(config, "standard"), module.with_suite(config, None)
    assert (asked.audit.suite, asked.audit.attackers) == ("standard", None)
    assert not_asked.audit.attackers == ("linear",)
    assert module.with_suite(Config(), None).audit.suite == "standard"
    assert asked.fingerprint() == not_asked.fingerprint() == config.fingerprint()
