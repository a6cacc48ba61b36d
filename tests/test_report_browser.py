"""The report in headless Chromium: it renders on a desk, on a phone, in the dark and on paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import browser
from efface.report import render_audit, render_comparison, render_report
from efface.report.theme import PALETTE
from sample_run import attribute, audit, bare_audit, faces, metrics, write_run

LONG = "a_very_long_attribute_name_without_any_space_that_nobody_wants_but_some_data_set_has"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    run = write_run(folder / "run")
    (render_report(run)).rename(folder / "report.html")
    render_audit(bare_audit(), folder / "bare.html")
    render_comparison([run, run, run], folder / "comparison.html")
    values = {**audit(), "name": LONG, "attributes": {LONG: attribute("leaks", (0.7, 0.6, 0.5), (0.9, 0.8, 0.7))}}
    values["data"] = {**values["data"], "target": LONG, "name": LONG}
    values["attributes"][LONG]["attackers"][0]["name"] = LONG
    render_audit(
        values, folder / "long.html", config=f"key: {LONG * 3}", metrics=metrics()[:40], reconstructions=faces(2)
    )
    return folder


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_nothing_overflows(place: Path) -> None:
    views = [(name, width) for name in ("report", "bare", "comparison", "long") for width in (360, 390, 1200)]
    measured = browser.measure(place, *((place / f"{name}.html", width) for name, width in views))
    for (name, width), found in zip(views, measured, strict=True):
        assert (name, found["client"], found["scroll"], found["wide"]) == (name, width, width, [])
        assert found["broken"] == found["scripts"] == 0
        assert len(found["ids"]) == len(set(found["ids"]))


def test_text_reaches_the_reader(place: Path) -> None:
    (found,) = browser.measure(place, (place / "report.html", 390))
    text = found["text"].replace("\xa0", " ")
    assert "No attacker in this suite exceeded 53.1 % on “glasses”." in text
    assert "Another attacker may do better" in text


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (390, True)])
def test_screenshot(place: Path, width: int, dark: bool) -> None:
    with Image.open(browser.screenshot(place, place / "report.html", width, 2400, dark)) as picture:
        seen = picture.convert("RGB")
    assert seen.size == (width, 2400)
    colours = {colour: n for n, colour in seen.getcolors(1 << 24) or ()}
    assert len(colours) > 100
    assert colours[rgb(PALETTE["page"][dark])] > 0.05 * width * 2400
    assert colours[rgb(PALETTE["surface"][dark])] > 0.2 * width * 2400
    assert rgb(PALETTE["at-floor"][dark]) in colours
    assert rgb(PALETTE["leaks"][dark]) in colours
    # The plots follow the theme too: their dots are drawn in the accent of this mode.
    assert rgb(PALETTE["accent"][dark]) in colours


def test_prints(place: Path) -> None:
    printed = browser.print_pdf(place, place / "report.html").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) >= 4


def test_without_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="headless Chromium is not installed"):
        browser.chromium()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt install chromium"):
        browser.chromium()
