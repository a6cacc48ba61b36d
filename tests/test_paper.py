"""The paper's printed figures as data, its own arithmetic, and the document that tells of it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from efface.errors import ConfigError
from efface.experiments.paper import arithmetic, document, maps
from efface.experiments.paper.arithmetic import aum_range, below_floor, below_majority, cells, disagreements, misfits
from efface.experiments.paper.figure6 import Point, front
from efface.experiments.paper.measured import after, before, spread
from efface.experiments.paper.page import Page, Picture, table
from efface.experiments.paper.printed import DATASETS, FLOORS, MODELS, TABLE_1, TABLE_2, TABLE_3, Printed

ROOT = Path(__file__).parent.parent


def harmonic(efficacy, fidelity):
    return 2 / (1 / (1 - efficacy) + 1 / fidelity)


def test_every_cell_of_the_tables_is_there():
    assert set(TABLE_1) == {(dataset, model) for dataset in DATASETS for model in MODELS}
    assert all(len(row) == 3 for row in TABLE_1.values())
    assert set(TABLE_2) == set(MODELS)
    assert len(TABLE_3) == 6
    assert len(list(cells())) == 27 + 6 + 6
    for where in cells():
        assert 0 < where.printed.efficacy < 1
        assert 0.5 < where.printed.fidelity < 1


def test_printed_aums_that_do_not_follow_are_exactly_these():
    wrong = {m.where.place for m in misfits()}
    assert wrong == {"table 1, CelebA, ResNet18, baseline 2", "table 1, CelebA, ResNet18, unlearning"}


def test_the_check_of_an_aum_is_as_fine_as_its_rounding():
    for where in cells():
        if where.printed.aum is None:
            continue
        exact = harmonic(where.printed.efficacy, where.printed.fidelity)
        low, high = aum_range(where.printed)
        assert low < exact < high
        assert high - low < 0.0003
        fits = abs(where.printed.aum - exact) < 0.0001
        assert fits == (where.place not in {m.where.place for m in misfits()}), where.place


def test_a_wrong_aum_would_be_found(monkeypatch):
    spoilt = {**TABLE_3, ("fairface", "age"): replace(TABLE_3["fairface", "age"], aum=0.8185)}
    monkeypatch.setattr(arithmetic, "TABLE_3", spoilt)
    assert "table 3, Fairface, age" in {m.where.place for m in misfits()}


def test_cells_below_the_floor():
    low = {where.place: floor for where, floor in below_floor()}
    assert sum("table 1" in place for place in low) == 18
    assert not any("baseline 1" in place for place in low)
    assert "table 3, Fairface, age" not in low
    assert low["table 3, CelebA, Mustache"] == pytest.approx(0.9626)


def test_floors_that_follow_from_counts():
    assert FLOORS["cifar10", "class"].guess == pytest.approx(0.6 / 6 + 0.4 / 4)
    assert FLOORS["fairface", "race"].guess == pytest.approx(1 / 7)


def test_answer_floor_is_the_least_over_all_ways_to_err():
    for fidelity in (0.55, 0.7, 0.9351, 1.0):
        ways = []
        for living in np.linspace(0, 1, 2001):
            other = (fidelity - 0.6 * living) / 0.4
            if -1e-9 <= other <= 1 + 1e-9:
                ways.append(0.1 * (living + other))
        assert arithmetic.answer_floor(fidelity) == pytest.approx(min(ways), abs=1e-4)


def test_only_baseline_2_is_worse_than_a_constant_answer():
    places = [where.place for where, _ in below_majority()]
    assert len(places) == 6
    assert all("baseline 2" in place for place in places)


def test_what_tables_print_differently():
    told = "\n".join(disagreements())
    assert "0.1095" in told
    assert "0.0996" in told
    assert "18.8%" in told
    assert len(disagreements()) == 3


def test_the_document_holds_what_the_code_computes():
    text = (ROOT / "docs" / "reproduction.md").read_text()
    filled = document.fill(text, "arithmetic", arithmetic.to_markdown())
    filled = document.fill(
        filled, "results", document.results(ROOT / "benchmarks/results/reproduction", ROOT / "docs/reproduction.md")
    )
    assert filled == text, "run: python -m efface.experiments.paper.document docs/reproduction.md benchmarks/results/…"


def test_a_document_without_marks_is_refused():
    with pytest.raises(ConfigError, match="x:begin"):
        document.fill("nothing", "x", "new")


def test_pictures_that_are_not_committed_are_left_out(tmp_path):
    folder = tmp_path / "results" / "small"
    folder.mkdir(parents=True)
    (folder / "figure4.md").write_text("# Figure 4\n\n![people](figure4.svg)\n\n![map](map.svg)\n")
    (folder / "map.svg").write_text("<svg/>")
    text = document.results(tmp_path / "results", tmp_path / "docs" / "a.md")
    assert "figure4.svg" not in text
    assert "![map](../results/small/map.svg)" in text
    assert text.startswith("### Figure 4 (small)")


def entry(best, floor=0.3, original=None, classes=4):
    attackers = [{"name": "resnet18", "accuracy": best - 0.1}, {"name": "mlp", "accuracy": best}]
    return {
        "classes": list("abcd")[:classes],
        "floors": {"label": floor, "majority": 0.28, "chance": 0.25},
        "best": {"accuracy": best},
        "attackers": attackers,
        "original_best": original,
        "original_attackers": [{"name": "mlp", "accuracy": original}] if original else None,
        "excess_leakage": (best - floor) / (original - floor) if original else None,
    }


def made(best, original=None, fidelity=0.9):
    audit = {"attributes": {"z": entry(best, original=original)}, "fidelity": {"value": fidelity, "original": 0.95}}
    return {"audit": audit, "images": {"train": 1000, "test": 200}}


def test_figures_of_a_cell():
    found = after(made(0.5, original=0.7), "z")
    assert (found.protocol, found.strongest) == (0.4, 0.5)
    assert found.strongest_aum == pytest.approx(harmonic(0.5, 0.9))
    assert found.protocol_aum == pytest.approx(harmonic(0.4, 0.9))
    assert found.ceiling == pytest.approx(harmonic(0.3, 1.0))
    assert found.excess == pytest.approx(0.5)


def test_baseline_1_is_the_original_of_the_same_audit():
    found = before(made(0.5, original=0.7), "z")
    assert (found.strongest, found.fidelity, found.excess) == (0.7, 0.95, 1.0)
    assert found.protocol is None


def test_a_cell_audited_alone_takes_the_ceiling_of_another():
    assert after(made(0.4), "z").excess is None
    assert after(made(0.4), "z", made(0.5, original=0.7)).excess == pytest.approx(0.25)


def test_spread_over_seeds():
    assert spread([0.1, 0.3, 0.2]) == "0.200 (0.100–0.300)"


def test_a_bar_in_a_name_does_not_break_the_table():
    assert table(["a"], [["x|y"]]).splitlines()[-1] == r"| x\|y |"


def test_the_front_is_what_no_other_beats():
    generator = np.random.default_rng(0)
    drawn = generator.random((40, 2)).round(1).tolist()
    points = [Point((0.0, 0.0, float(i)), 0.0, 0.0, f, 0.0, e) for i, (f, e) in enumerate(drawn)]
    best = front(points)
    for one in points:
        beaten = any(
            o.fidelity >= one.fidelity
            and o.excess <= one.excess
            and (o.fidelity, o.excess) != (one.fidelity, one.excess)
            for o in points
        )
        assert beaten or any((o.fidelity, o.excess) == (one.fidelity, one.excess) for o in best)
        assert not (beaten and one in best)


def test_the_phase_line_falls_between_the_columns_it_separates():
    assert maps.place_of(0.005, [0.001, 0.01, 0.1]) == pytest.approx(np.log10(5))
    assert 0 < maps.place_of(0.005, [0.001, 0.01, 0.1]) < 1


def test_a_page_is_written_as_markdown_html_svg_and_png(tmp_path):
    points = [Point((i, 1.0, r), 0.5, 0.5, 0.9, 0.6 + r / 100, r) for i in (0.1, 0.2) for r in (0.01, 1.0)]
    picture = Picture("map", "A <map>", "what it says", lambda: maps.front_figure(points, front(points)))
    page = Page("page", "Title & more", "Lede", ("a", "b"), (("1", "<2>"),), ("`code`",), (picture,))
    written = page.write(tmp_path)
    assert {path.name for path in written} == {"page.md", "page.html", "map.svg", "map.png"}
    html = (tmp_path / "page.html").read_text()
    assert "&lt;2&gt;" in html
    assert "<code>code</code>" in html
    assert not re.search(r'(?:src|href)="https?://', html)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "![what it says](map.svg)" in (tmp_path / "page.md").read_text()


def test_a_printed_cell_without_rounding_slack_is_still_a_range():
    low, high = aum_range(Printed(0.2, 0.8, 0.8))
    assert low < 0.8 < high
