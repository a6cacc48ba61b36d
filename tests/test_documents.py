"""What pages say is what the committed results say."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from efface.experiments.bench.goals import overview
from efface.experiments.leaderboard import Leaderboard
from efface.report.words import upwards

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BOARDS = sorted((RESULTS / "leaderboard").glob("*.json"))
CERTIFIED = ("utkface-gender-race-layer2", "utkface-gender-race", "celeba-smiling-male", "cifar10-living-class")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_leaderboard_s_table_is_its_json_s(path):
    board = read(path)
    made = Leaderboard(board["rows"], board["failed"], board["pending"], board)
    assert made.to_markdown() == path.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_readme_s_table_of_presets_is_the_certified_runs(name):
    rows = read(RESULTS / "certified" / f"{name}.json")["rows"]
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| data: task / attribute, cut |")[2]
    line = table.splitlines()[2 + CERTIFIED.index(name)]

    def over_seeds(column):
        return mean(row[column] for row in rows)

    assert len(rows) == 3
    excess = [row["excess_leakage"] for row in rows]
    for text in (
        f"| {over_seeds('fidelity_original'):.3f} → {over_seeds('fidelity'):.3f} |",
        f"| {over_seeds('label_floor'):.3f} |",
        f"| {over_seeds('original_accuracy'):.3f} → {over_seeds('best_accuracy'):.3f} |",
        f"| {min(excess):.3f} to {max(excess):.3f} |",
        f"| {upwards(max(row['certified'] for row in rows)):.3f} |",
    ):
        assert text in line
    kept = {column: [row["selectivity"][column] for row in rows] for column in rows[0]["preserved"]}
    for column, shares in kept.items():
        low, high = (f"{value:.2f}" for value in (min(shares), max(shares)))
        assert f"{column} {low} to {high}" in line


@pytest.mark.parametrize("folder", ["bench", "gpu"])
def test_goals_are_set_beside_what_was_measured(folder):
    found = {path.stem: read(path) for path in sorted((RESULTS / folder).glob("*.json"))}
    page = overview({name: one for name, one in found.items() if "bench" in one})
    assert page == (RESULTS / folder / "README.md").read_text(encoding="utf-8")


def test_the_table_of_speed_is_the_bench_s():
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    ratios = read(RESULTS / "bench" / "step.json")["ratios"]
    for about, name in (
        ("tuned end to end against the plain loop", "tuned_vs_plain"),
        ("against one thread end to end", "pipelined_vs_one_thread"),
        ("pipelined against 2 threads end to end", "pipelined_vs_two_threads"),
        ("the same while another process holds a core", "pipelined_vs_two_threads_core_held"),
    ):
        line = next(line for line in text.splitlines() if line.startswith("|") and about in line)
        assert float(re.search(r"\| ([\d.]+)×", line)[1]) == pytest.approx(ratios[name], abs=0.005)
    saving = read(RESULTS / "bench" / "memory.json")["saving"]
    assert ", ".join(f"−{100 * saving[f'resnet{n}']:.1f} % ResNet-{n}" for n in (18, 34, 50)) in text
