"""The figures: which curves share a panel, what floors are drawn, and that nothing else changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from efface.report.curves import MOST_PANELS, MOST_POINTS, panels, thinned
from efface.report.plots import Dot, attackers_figure, merged_floors
from efface.report.svg import to_svg
from sample_run import attribute, audit, metrics


def test_panels_know_their_families() -> None:
    found = panels([*metrics(), {"model": "unlearned", "epoch": 1, "metrics": {"new/one": 1.0, "bad": float("nan")}}])
    assert [panel.family for panel in found][:3] == ["fidelity", "removal_accuracy", "removal_bits"]
    assert found[-1].family == "new"
    assert all(panel.family != "bad" for panel in found)
    assert [curve.label for curve in found[0].curves.values()] == ["unlearned", "original"]
    losses = next(panel for panel in found if panel.family == "loss")
    assert {curve.label for curve in losses.curves.values()} == {"classifier", "extractor", "classifier, original"}
    assert "unlearned from" in found[0].alt
    many = [{"model": "m", "epoch": 1, "metrics": {f"x{i}": 1.0 for i in range(40)}}]
    assert len(panels(many)) == MOST_PANELS


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900))
def test_thinning_keeps_ends_and_range(values: list[float]) -> None:
    x, y = thinned(list(range(len(values))), values)
    assert len(x) == len(y) == min(len(values), MOST_POINTS)
    assert (x[-1], y[-1]) == (len(values) - 1, values[-1])
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert min(values) - slack <= y.min()
    assert y.max() <= max(values) + slack


def test_floors_that_coincide_share_a_line() -> None:
    assert merged_floors({"chance": 0.5, "majority": 0.5, "label": 0.5}) == [(["chance", "majority", "label"], 0.5)]
    assert [names for names, _ in merged_floors({"chance": 0.2, "majority": 0.6, "label": 0.4})] == [
        *(["chance"], ["label"], ["majority"])
    ]
    same = attribute("leaks", (0.7, 0.6, 0.5), (0.9, 0.9, 0.9), floors={"chance": 0.5, "majority": 0.5, "label": 0.5})
    drawn = to_svg(lambda: attackers_figure(same), "alt", "x").replace("\xa0", " ")
    assert "chance = majority = label floor 50.0 %" in drawn


def test_plots_of_odd_values() -> None:
    odd = attribute("leaks", (1.0, 0.0, 0.5), (1.0, 1.0, 1.0))
    odd["attackers"][1] |= {"accuracy": None, "ci": None}
    odd["attackers"][2]["ci"] = [None, None]
    assert "–" in to_svg(lambda: attackers_figure(odd, 340), "alt", "x")
    odd["attackers"], odd["original_attackers"] = [], None
    assert "<svg" in to_svg(lambda: attackers_figure(odd), "alt", "x")
    assert Dot("x", None).ci is None


def test_drawing_leaves_no_trace_in_matplotlib() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = (to_svg(lambda: attackers_figure(audit()["attributes"]["glasses"]), "alt", "x") for _ in range(2))
    assert dict(matplotlib.rcParams) == before
    assert first == second
