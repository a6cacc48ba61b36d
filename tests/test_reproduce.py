"""The paper's tables and figures on drawn faces: cells are kept, killed ones go on, nothing is mixed up."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from efface.cli.app import app
from efface.cli.reproduce import reproduce as _verb  # noqa: F401  registers itself
from efface.cli.sweep import sweep as _other  # noqa: F401  a second verb, so that verbs have names
from efface.data.batches import normalised
from efface.data.load import load
from efface.errors import ConfigError
from efface.experiments import RunFolder, run
from efface.experiments.paper import MAKERS, cells, figure3, figure4, figure6, reproduce, table2, table3
from efface.experiments.paper.cells import Cell, Workshop
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import ATTRIBUTE, DATASETS, TABLE_1
from efface.experiments.paper.scales import PAPER, SCALES, SMALL, SMOKE, Grid
from efface.experiments.paper.tasks import find_tasks
from efface.experiments.runner import fresh_model
from efface.methods import released_data, restore

TINY = (
    "data.options.n=300",
    "engine.epochs=1",
    "engine.original_epochs=1",
    "engine.batch_size=64",
    "audit.attackers=[mlp-small]",
    "audit.resamples=100",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Table 1 at the smallest size."""
    out = tmp_path_factory.mktemp("reproduction")
    reproduce(["table1"], None, "smoke", out, overrides=TINY, progress=False)
    return out


@pytest.fixture
def plan():
    return Plan(SMOKE, find_tasks(None), (0,), TINY)


@pytest.fixture
def roots(tmp_path):
    """A data root with the folders of the shared data, and one with fairface too."""
    for root, names in {"shared": ["utkface"], "full": ["utkface", "fairface"]}.items():
        for name in (*names, "celeba", "cifar10"):
            (tmp_path / root / name).mkdir(parents=True)
    return tmp_path / "shared", tmp_path / "full"


def test_the_table_has_printed_figures_ours_and_floors_side_by_side(folder):
    text = (folder / "table1.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "ResNet" in line][1:]
    assert len(rows) == 27
    ours = [row for row in rows if "toyfaces" in row[0]]
    assert len(ours) == 9
    for row in ours:
        dataset = row[0].removeprefix("| ").split(" ")[0].lower()
        role = {"baseline 2": "masked_retrain", "unlearning": "detachment", "baseline 1": "original"}[row[2]]
        printed = TABLE_1[dataset, "resnet18"][role]
        assert row[3] == f"{printed.efficacy:.4f}"
        assert 0 < float(row[5]) <= 1
        assert 0 < float(row[8]) <= 1
        assert float(row[6].split(" ")[0]) > 0
        assert row[14].startswith("210 / 60")
    assert "not at this scale" in text
    assert "stand in for Fairface" in text
    assert "<table>" in (folder / "table1.html").read_text()


def test_every_cell_is_a_json_with_its_origin(folder):
    found = [json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")]
    found = [cell for cell in found if "audit" in cell and "end_to_end" not in cell["name"]]
    assert len(found) == 6
    for cell in found:
        assert {"config", "seed", "environment", "seconds", "images", "audit", "peak_rss_mb"} <= set(cell)
        assert {"versions", "hardware", "started", "command"} <= set(cell["environment"])
        assert cell["environment"]["command"].startswith("efface reproduce table1 --scale smoke --seeds 1")
        assert str(folder) not in json.dumps(cell)


def test_finished_cells_are_used_again_by_other_tables(folder, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    monkeypatch.setattr(cells, "train_unlearned", lambda *_: pytest.fail("trained again"))
    written = reproduce(["table1", "figure5"], None, "smoke", folder, overrides=TINY, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    assert {path.name for path in written} >= {"table1.md", "figure5.md", "figure5.svg", "figure5.png", "figure5.html"}


def test_one_original_serves_unlearning_and_baseline_2(folder):
    # Fairface and CelebA stand-ins are the same faces with the same task; CIFAR-10's are linked otherwise.
    assert len(list((folder / "originals").glob("*/original.safetensors"))) == 2


def test_a_killed_cell_goes_on_where_it_was(tmp_path, plan, monkeypatch):
    cell = plan.unlearning(plan.tasks["celeba"], ["Male"], "resnet18", 0)
    shop = Workshop(tmp_path, progress=False)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cells, "audit", killed)
        with pytest.raises(KeyboardInterrupt):
            shop.run(cell)
    assert shop.kept(cell.id) is None
    run = tmp_path / "runs" / cell.id
    trained, weights = (run / "metrics.jsonl").read_text(), (run / "model.safetensors").read_bytes()
    assert shop.run(cell)["audit"]["attributes"]["glasses"]["original_best"] is not None
    assert (run / "metrics.jsonl").read_text() == trained  # not a step was made again
    assert (run / "model.safetensors").read_bytes() == weights
    assert not (run / "features").exists()


def test_baseline_2_is_attacked_on_masked_images(tmp_path, plan, monkeypatch):
    seen = {}
    audited = cells.audit

    def watched(model, data, at, **more):
        seen.update(fingerprint=data.fingerprint, original=more["original"])
        return audited(model, data, at, **more)

    monkeypatch.setattr(cells, "audit", watched)
    Workshop(tmp_path, progress=False).run(plan.masked(plan.tasks["celeba"], ["Male"], "resnet18", 0))
    assert "-masked-" in seen["fingerprint"]
    assert seen["original"] is None


def test_figures_3_and_4_show_the_same_people(folder, plan):
    shop = Workshop(folder, progress=False)
    plan = replace(plan, scale=replace(SMOKE, faces=2, reconstruction_epochs=1))
    pages = [figure3.make(plan, shop), figure4.make(plan, shop)]
    for page in pages:
        assert {path.suffix for path in page.write(folder)} == {".md", ".html", ".svg", ".png"}
        assert any("drawn" in note for note in page.notes)
    assert len(pages[1].rows) == 3
    assert all(float(row[2]) > 0 for row in pages[1].rows)
    assert len(list((folder / "pictures").glob("*.npz"))) == 6


def test_figure_6_has_maps_and_a_front(tmp_path, plan):
    grid = Grid("celeba", "Male", (0.01, 0.005), (1.0,), (8.0,), ("audit.attackers=[mlp-small]",))
    plan = replace(plan, scale=replace(SMOKE, grid=grid))
    page = figure6.make(plan, Workshop(tmp_path, progress=False))
    assert [row[:3] for row in page.rows] == [("0.01", "1", "8"), ("0.005", "1", "8")]
    assert {path.name for path in page.write(tmp_path)} >= {"figure6.svg", "figure6-front.svg", "figure6-front.png"}
    configs = [json.loads(path.read_text())["config"]["method"] for path in (tmp_path / "cells").iterdir()]
    assert {(config["variant"], config["keep"]) for config in configs} == {("paper", "image")}


def test_table_2_measures_both_schedules(folder, plan):
    scale = replace(SMOKE, speed={**SMOKE.speed, "steps": 1})
    plan = replace(plan, tasks={"cifar10": plan.tasks["cifar10"]}, scale=scale)
    shop = Workshop(folder, progress=False)
    page = table2.make(plan, shop)
    raw, local = page.rows[:2]
    assert raw[2] == "32.297"
    assert local[2] == "24.265"
    assert float(raw[3].split(" ")[0]) > 0
    assert raw[4] == "0.1039"
    assert float(raw[6]) > 0
    assert local[15].endswith(")")
    schedules = {
        json.loads(path.read_text())["config"]["engine"]["schedule"]
        for path in (folder / "cells").glob("cifar10-resnet18-detachment*.json")
    }
    assert schedules == {"end_to_end", "local"}
    measured = json.loads(next((folder / "cells").glob("speed-*.json")).read_text())["result"]
    assert measured["memory_mib"]["raw"]["Total"] > measured["memory_mib"]["local"]["Total"] * 0.9
    assert table2.make(plan, shop).rows == page.rows  # kept


def test_several_attributes_have_weights_and_lines_of_their_own(tmp_path, plan, monkeypatch):
    monkeypatch.setattr(table3, "TABLE_3", {})
    monkeypatch.setattr(table3, "TOGETHER", table3.TOGETHER[2:])
    page = table3.make(plan, Workshop(tmp_path, progress=False))
    assert [row[2] for row in page.rows] == ["glasses", "hat", "hair_colour"]
    method = json.loads(next((tmp_path / "cells").iterdir()).read_text())["config"]["method"]
    assert method["attribute_weights"] == {"glasses": 1.0, "hat": 0.5, "hair_colour": 0.5}


@pytest.mark.parametrize("scale", [SMALL, PAPER], ids=lambda scale: scale.name)
def test_every_cell_of_the_large_scales_is_a_valid_setting(scale, roots):
    plan = Plan(scale, find_tasks(roots[0]), (0, 1))
    found = []
    for dataset, task in plan.tasks.items():
        for model in scale.models:
            found.append(plan.unlearning(task, [ATTRIBUTE[dataset]], model, 0))
            found.append(plan.masked(task, [ATTRIBUTE[dataset]], model, 0))
    for dataset, weights in table3.TOGETHER:
        found.append(plan.unlearning(plan.tasks[dataset], [*weights], "resnet18", 0, weights))
    found.append(figure6.cell(plan, (0.01, 1.0, 8.0), 0))
    assert len({cell.id for cell in found}) == len(found)
    by_name = {cell.name: cell.config for cell in found}
    assert by_name["fairface-resnet50-detachment-race"].data.source.endswith("utkface")
    assert by_name["cifar10-resnet18-masked_retrain-class"].method.name == "masked_retrain"
    limit = {model: by_name[f"celeba-{model}-detachment-Male"].data.limit for model in scale.models}
    if scale is SMALL:
        assert limit["resnet18"] > limit["resnet34"] > limit["resnet50"]
    else:
        assert set(limit.values()) == {None}
        assert by_name["celeba-resnet18-detachment-Male"].model.options == {}


def test_fairface_is_used_where_it_is_and_else_replaced_aloud(roots):
    shared, full = (find_tasks(root)["fairface"] for root in roots)
    assert shared.shown == "utkface"
    assert "stands in for Fairface" in shared.note
    assert (full.shown, full.note) == ("fairface", "")
    assert full.columns["age"] == "age"


def test_a_cell_is_known_by_its_settings_and_not_by_where_data_lie(roots):
    one, two = (Plan(SMALL, find_tasks(root, ("celeba",))) for root in roots)
    cell, same = (p.unlearning(p.tasks["celeba"], ["Male"], "resnet18", 0) for p in (one, two))
    assert cell.config.data.source != same.config.data.source
    assert cell.id == same.id
    others = [
        one.unlearning(one.tasks["celeba"], ["Male"], "resnet18", 1),
        one.unlearning(one.tasks["celeba"], ["Male"], "resnet34", 0),
        replace(one, overrides=("audit.epochs=3",)).unlearning(one.tasks["celeba"], ["Male"], "resnet18", 0),
        Cell(cell.name, cell.config, beside_original=False),
    ]
    assert len({cell.id, *(other.id for other in others)}) == 5


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        reproduce(["table9", "figure7"], None, "smal", tmp_path, seeds=0)
    for part in ("4 problems", "'table9'", "'figure7'", "Did you mean 'small'?", "`--seeds`"):
        assert part in str(caught.value)


def test_data_that_lack_are_named_with_what_to_try(tmp_path):
    (tmp_path / "celeba").mkdir()
    with pytest.raises(ConfigError) as caught:
        reproduce(["table1"], tmp_path, "small", tmp_path / "out")
    for part in ("2 problems", "`fairface` or `utkface`", "`cifar10`", "--scale smoke"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="--data-root"):
        reproduce(["table1"], None, "small", tmp_path / "out")
    with pytest.raises(ConfigError, match="folder with a folder per data set"):
        reproduce(["table1"], tmp_path / "nowhere", "small", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figure_6_at_small_scale_needs_no_data(roots):
    assert "small" in SCALES
    assert figure6.cell(Plan(SMALL, {}), (0.01, 1.0, 8.0), 0).config.data.source == "toyfaces"


def test_the_command_line(folder, monkeypatch):
    asked = {}

    def make(*arguments):
        asked["names"], asked["scale"] = arguments[0], arguments[2]
        return [folder / "table1.md", folder / "figure5.svg"]

    monkeypatch.setattr("efface.experiments.paper.reproduce", make)
    done = CliRunner().invoke(app, ["reproduce", "all", "--scale", "smoke", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert asked == {"names": list(MAKERS), "scale": "smoke"}
    assert "table1.md" in done.output
    assert set(DATASETS) == {"fairface", "celeba", "cifar10"}


def test_a_run_of_baseline_2_reads_each_model_on_the_images_it_is_meant_for(tmp_path, plan):
    config = plan.masked(plan.tasks["celeba"], ["Male"], "resnet18", 0).config
    result = run(config, tmp_path / "run", progress=False)
    data = load(config.data, config.seed, False)
    masked = released_data(data, result.folder, config.method, config.seed)
    assert (masked.images[:] != data.images[:]).any()
    for name, key, images in (("original", "original", data), ("model", "value", masked)):
        model = restore(fresh_model(config, data, name), RunFolder(result.folder).weights(name)).eval()
        rows = images.rows("test")
        with torch.no_grad():
            guesses = model(normalised(torch.from_numpy(np.array(images.images[rows])))).argmax(1).numpy()
        accuracy = float((guesses == images.split_labels("test", "smiling")).mean())
        assert result.audit.fidelity[key] == pytest.approx(accuracy, abs=0.02)
