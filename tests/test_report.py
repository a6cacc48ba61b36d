"""The report: what is on the page, what is said when pieces are missing, and what can't get in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from efface.config import MethodConfig
from efface.errors import CheckpointError
from efface.report import (
    markdown,
    plain_text,
    render_audit,
    render_comparison,
    render_report,
    write_document,
    write_model_card,
)
from efface.report.render import slug
from sample_run import attribute, audit, bare_audit, environment, faces, full_audit, metrics, write_run, write_small_run

EVIL = '"><script>alert(1)</script>&amp; $x_1$ \u202e{{ 7*7 }} `'
VOID = {"meta", "img", "br", "path", "circle", "use", "rect"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; complains about tags that don't match."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\xa0", " "))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "glasses")
    render_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(render_audit(bare_audit(), tmp_path_factory.mktemp("bare") / "deep" / "report.html"))


def test_sections_in_order(page: Page) -> None:
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *("verdict", "fidelity", "attackers", "people", "training", "cost", "settings", "data", "warnings", "again"),
        "terms",
    ]
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert {link[1:] for link in links} <= {attributes.get("id") for _, attributes in page.tags}


def test_page_says_what_the_audit_found(page: Page) -> None:
    for text in (
        "No attacker in this suite exceeded 53.1 % on “glasses”.",
        "Leaks: an attacker guesses “skin tone” correctly for 61.2 % of the images.",
        "Inconclusive because linear stayed below the majority floor, which it should reach.",
        "knowing the answer to the task “smiling” alone gives 52.1 % (the label floor)",
        "Before unlearning, the best attacker got 98.7 %.",
        "The original model reaches 97.4 % (95 % interval 96.6–98.0 %)",
        "0.637 of at most 0.643",
        "Another attacker may do better",
        "1 min 36 s",
        "1.9 GiB",
        "AMD EPYC 7763",
        "efface run toyfaces-glasses --out runs/toyfaces-glasses",
        "12 images of the test split are also in train",
        "The attacker sees the features at layer2",
        "912.4 k (8.2 % of the model’s)",
        "24.1 dB",
        f"removal_weight: {MethodConfig().removal_weight}",
    ):
        assert text in page.text, text


def test_every_attacker_and_reference_has_its_row(page: Page) -> None:
    rows = re.findall(r'<tr( class="ref")?>\s*<th scope="row">(\w[\w ]*)', page.source)
    names = [name for _, name in rows]
    assert names.count("resnet18") == names.count("mlp") == names.count("linear") == 3
    assert names.count("Label floor") == names.count("Ceiling") == names.count("Chance") == 3


def test_no_claim_that_theory_forbids(page: Page, bare: Page, run: Path) -> None:
    card = write_model_card(run).read_text()
    for text in (page.text, bare.text, card):
        assert not re.search(r"\b(removed|private|safe|safely|fair|secure|anonymous)\b", text, re.IGNORECASE)


def test_nothing_is_loaded_and_nothing_runs(page: Page, bare: Page) -> None:
    for one in (page, bare):
        assert one.all("script") == one.all("link") == one.all("iframe") == []
        assert not any(name.startswith("on") for _, attributes in one.tags for name in attributes)
        loaded = [a[name] for _, a in one.tags for name in ("src", "href", "srcset", "data", "action") if name in a]
        assert all(address.startswith(("#", "data:image/png;base64,")) for address in loaded)
        assert "http://" not in one.source
        assert "https://" not in one.source
        assert not re.search(r"url\((?!#)", one.source)
        assert "@import" not in one.source


def test_accessible(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    assert all(cell.get("scope") in ("col", "row", "rowgroup") for cell in page.all("th"))
    drawings = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in drawings)
    assert len(drawings) == 2 * 3 + 8
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page.source)) | {use["href"][1:] for use in page.all("use")}
    assert used <= set(ids)


def test_plots_follow_the_theme(page: Page) -> None:
    drawn = "".join(re.findall(r'<svg class="plot".*?</svg>|<svg viewBox.*?</svg>', page.source, re.DOTALL))
    assert "var(--accent)" in drawn
    assert "var(--surface)" in drawn
    assert not re.search(r"(fill|stroke): #", drawn)
    assert "DejaVu" not in drawn


def test_figures_are_saved(run: Path) -> None:
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {
        *("attackers-1-glasses.png", "attackers-2-skin-tone.png", "attackers-3-hair-colour.png"),
        *("training.png", "reconstructions.png"),
    }
    for name in names:
        with Image.open(run / "figures" / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20


def test_figures_of_attributes_that_are_gone_go_too(tmp_path: Path) -> None:
    folder = write_small_run(tmp_path / "run")
    (folder / "figures").mkdir()
    (folder / "figures" / "attackers-9-old.png").touch()
    render_report(folder, tmp_path / "elsewhere.html")
    assert not (folder / "figures" / "attackers-9-old.png").exists()
    assert (tmp_path / "elsewhere.html").exists()
    assert not (folder / "report.html").exists()


def test_reconstructions_are_the_arrays(page: Page) -> None:
    import base64
    import io

    images = page.all("img")
    assert len(images) == 3 * 8
    data = base64.b64decode(images[8]["src"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(np.moveaxis(np.asarray(picture), -1, 0), faces()["original"][0])


def test_bare_audit_says_what_is_absent_and_how_to_get_it(bare: Page) -> None:
    for text in (
        "The original model was not audited",
        "No training curves",
        "No reconstructions",
        "No settings",
        "Versions and hardware were not recorded",
        "Seconds and memory were not measured",
        "The columns of the data set were not recorded",
        "No command was recorded",
        "What the original model reveals was not measured.",
        "efface run CONFIG",
    ):
        assert text in bare.text, text
    assert "None" not in bare.text
    assert "nan" not in bare.text.lower().split()
    assert "original model," not in "".join(svg.get("aria-label", "") for svg in bare.all("svg"))


def test_reconstructions_without_original(tmp_path: Path) -> None:
    arrays = faces(3)
    del arrays["original"], arrays["labels"]
    page = Page(render_audit(bare_audit(), tmp_path / "page.html", reconstructions=arrays))
    assert len(page.all("img")) == 2 * 3
    assert "From original features" not in page.text
    assert page.all("img")[0]["alt"] == "Image: image 1"


def test_grey_images(tmp_path: Path) -> None:
    arrays = {name: value[:, :1] for name, value in faces(2).items() if name != "labels"}
    assert len(Page(render_audit(bare_audit(), tmp_path / "page.html", reconstructions=arrays)).all("img")) == 6


def test_numpy_and_tuples_are_taken(tmp_path: Path) -> None:
    values = bare_audit()
    values["fidelity"] = {"value": np.float32(0.5), "ci": (0.4, 0.6), "n": np.int64(10)}
    config = {"seed": 3, "data": {"source": "toyfaces"}}
    page = Page(render_audit(values, tmp_path / "p.html", config=config, metrics=metrics(), environment=environment()))
    assert "50.0 % of 10 test images (95 % interval 40.0–60.0 %)" in page.text
    assert "source: toyfaces" in page.text


def test_names_cannot_inject(tmp_path: Path) -> None:
    values = json.loads(json.dumps(audit()).replace("skin tone", "SKIN").replace("hair colour", "HAIR"))
    values["attributes"] = {EVIL: values["attributes"]["SKIN"]}
    values["attributes"][EVIL]["attackers"][0]["name"] = EVIL
    values["attributes"][EVIL]["attackers"][1]["warning"] = EVIL
    values["name"] = values["data"]["target"] = values["data"]["name"] = values["model"]["name"] = EVIL
    values["warnings"] = [EVIL]
    values["data"]["schema"]["target"]["classes"][0] = EVIL
    lines = [{**line, "metrics": {f"removal_bits/{EVIL}": 0.5}, "model": EVIL} for line in metrics()[:3]]
    pictures = {**faces(2), "labels": np.array([EVIL, EVIL])}
    out = tmp_path / "page.html"
    place = {"command": EVIL, "versions": {EVIL: EVIL}, "hardware": {"cpu": EVIL}}
    render_audit(values, out, metrics=lines, config=EVIL, environment=place, reconstructions=pictures)
    page = Page(out)
    assert page.all("script") == []
    assert "<script>alert" not in page.source
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "environment.json", "reconstructions.npz"])
def test_damaged_side_files_become_notes(tmp_path: Path, name: str) -> None:
    folder = write_small_run(tmp_path / "run")
    (folder / name).write_bytes(b'\xff\xfe{"broken')
    page = Page(render_report(folder))
    assert f"{name} could not be read" in page.text


def test_a_line_cut_in_half_is_counted(tmp_path: Path) -> None:
    folder = write_small_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"model": "unlearned", "st')
    assert "1 damaged line of metrics.jsonl left out." in Page(render_report(folder)).text


def test_unfit_reconstructions(tmp_path: Path) -> None:
    folder = write_small_run(tmp_path / "run")
    np.savez(folder / "reconstructions.npz", images=np.zeros((2, 3, 4, 4), np.uint8), unlearned=np.zeros((2, 3, 4)))
    assert "reconstructions.npz left out: the arrays should share one shape" in Page(render_report(folder)).text
    floats = {name: np.zeros((1, 3, 4, 4)) for name in ("images", "unlearned")}
    with pytest.raises(CheckpointError, match=r"Cannot show `reconstructions`: the arrays should be uint8"):
        render_audit(bare_audit(), tmp_path / "page.html", reconstructions=floats)


def test_no_torch_no_pyplot(tmp_path: Path) -> None:
    folder = write_small_run(tmp_path / "run")
    code = (
        "import sys; from efface.report import render_report, write_model_card; "
        f"render_report({str(folder)!r}); write_model_card({str(folder)!r}); "
        "print([m for m in ('torch', 'matplotlib.pyplot', 'datasets', 'efface.config') if m in sys.modules])"
    )
    source = Path(sys.modules["efface.report"].__file__ or "").parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=source, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("name", "index", "wanted"), [("A b", 1, "1-a-b"), ("<script>", 2, "2-script"), ("年", 3, "3")]
)
def test_slugs_are_plain(name: str, index: int, wanted: str) -> None:
    assert slug(name, index) == wanted


def test_comparison(run: Path, tmp_path: Path) -> None:
    leaky = {"glasses": attribute("leaks", (0.7, 0.68, 0.6), (0.98, 0.97, 0.9))}
    data = {**audit()["data"], "target": "hat"}
    other = write_run(tmp_path / "other", attributes=leaky, data=data, phases=None)
    page = Page(render_comparison([run, other], tmp_path / "page.html"))
    assert "2 runs: toyfaces-glasses (glasses), toyfaces-glasses (other)." in page.text
    assert "The runs differ in task: smiling, hat." in page.text
    assert len(re.findall(r'<tr class="(?:leaks|at-floor|inconclusive)">', page.source)) == 4
    assert "resnet18, was 98.7 %" in page.text
    assert "at most 0.643" in page.text
    assert page.all("script") == []
    alts = [svg["aria-label"].replace("\xa0", " ") for svg in page.all("svg") if svg.get("role") == "img"]
    assert "Best attacker on glasses: toyfaces-glasses (glasses) 52.7 %, toyfaces-glasses (other) 70.0 %." in alts
    assert any(alt.startswith("Time: ") and "3 min 24 s" in alt for alt in alts)
    assert len(alts) == 1 + 2 * 3 + 2


def test_comparison_tells_all_problems(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 problems:"):
        render_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    with pytest.raises(CheckpointError, match="Expected `folders` to be one or more run folders"):
        render_comparison([], tmp_path / "page.html")


def test_model_card(run: Path) -> None:
    path = write_model_card(run)
    assert path == run / "README.md"
    _, front, body = path.read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "efface"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.968
    assert "datasets" not in metadata
    plain = body.replace("\xa0", " ")
    assert "No attacker in this suite exceeded 53.1 % on “glasses”." in plain
    assert "| Label floor: knowing the task answer and nothing else | 52.1 % |" in plain
    assert "![attackers 1 glasses](figures/attackers-1-glasses.png)" in plain
    for row in re.findall(r"^\|.*$", plain, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_model_card_escapes(tmp_path: Path) -> None:
    evil = "a|b <img src=x onerror=alert(1)> [x](y) `c`\n# head"
    values = {**audit(), "name": evil, "attributes": {evil: audit()["attributes"]["glasses"]}}
    folder = write_run(tmp_path / "run", **values)
    (folder / "environment.json").write_text(json.dumps({"command": "x ``` <b>"}))
    (folder / "config.yaml").write_text("a: [")
    text = write_model_card(folder).read_text()
    body = text.split("---\n", 2)[2]
    assert yaml.safe_load(text.split("---\n", 2)[1])["model-index"][0]["name"] == evil
    assert "<img" not in body
    assert "a\\|b &lt;img" in body
    assert "\n# head" not in body
    assert body.count("```") == 2


def test_hub_names_go_into_the_card(tmp_path: Path) -> None:
    folder = write_small_run(tmp_path / "run", data={**audit()["data"], "name": "org/faces"})
    assert yaml.safe_load(write_model_card(folder).read_text().split("---\n")[1])["datasets"] == ["org/faces"]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("full") / "run", **full_audit())
    render_report(folder)
    return folder


def test_everything_that_an_audit_may_hold_is_on_the_page(full: Path) -> None:
    page = Page(full / "report.html")
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        *(
            "verdict",
            "fidelity",
            "layers",
            "others",
            "attackers",
            "controls",
            "numbers",
            "learning",
            "selectivity",
            "people",
            "groups",
            "pairs",
            "learned",
        ),
        *("training", "cost", "settings", "data", "warnings", "again", "terms"),
    ]
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert {link[1:] for link in links} <= {attributes.get("id") for _, attributes in page.tags}
    for text in (
        "Certified: no attacker can exceed 53.4 % with 95 % confidence",
        "Nothing is certified.",
        "at most 53.4 %",
        "best of 3 attackers",
        "standard, 3 attackers",
        "layer2 (released)",
        "Probes read more of glasses behind",
        "mean of 3 seeds; linear 50%, mlp 50%",
        "glasses × hat",
        "−3.0 to +1.0 points",
        "id: not probed. 3000 classes",
        "Read off the drawings",
        "Fewer than 30 people: yes.",
    ):
        assert text in page.text, text


def test_an_old_file_shows_no_empty_columns(page: Page) -> None:
    assert "AUC" not in page.text
    assert "Layer map" not in page.text


def test_an_audit_without_task_or_model_renders(tmp_path: Path) -> None:
    made = bare_audit()
    made["data"]["target"] = None
    made["model"] |= {"name": None, "parameters": None}
    made["fidelity"] = {"value": None, "ci": None, "original": None, "original_ci": None, "n": 0}
    made["attributes"]["glasses"] |= {"aum": None, "aum_ceiling": None}
    page = Page(render_audit(made, tmp_path / "page.html"))
    assert "No task was named, so there is no fidelity." in page.text
    assert "Task kept" not in page.text
    assert "This model" not in page.text


def test_markdown_and_text_say_what_the_page_says(full: Path, tmp_path: Path) -> None:
    made = write_document(full, "md").read_text(encoding="utf-8").replace("\xa0", " ")
    assert made.startswith("# toyfaces-glasses\n\n3 attributes audited: 1 leak")
    told = write_document(full, "text", tmp_path / "deep" / "told.txt").read_text(encoding="utf-8")
    flat = " ".join(told.split())
    for text in (
        "No attacker in this suite exceeded 53.1 % on “glasses”.",
        "Certified: no attacker can exceed 53.4 %",
        "layer2 (released)",
        "glasses × hat",
        "Read off the drawings",
        "3 of 3 attackers on “glasses” find it.",
        "In the original model, the attribute is seen.",
        "unfit: is blind",
        "the last doubling brought +0.4 points",
    ):
        assert text in made, text
        assert text in flat, text
    for row in re.findall(r"^\|.*$", made, re.MULTILINE):
        assert row.endswith(" |")
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in re.findall(r"^\| attacker .*bits.*$", made, re.MULTILINE)}
    assert widths == {10}
    assert "\xa0" not in told
    assert max(len(line) for line in told.splitlines() if not line.startswith("  ")) <= 100


def test_controls_stand_on_the_card_and_in_the_table(full: Path) -> None:
    text = " ".join((full / "report.html").read_text(encoding="utf-8").replace("\xa0", " ").split())
    assert "3 of 3 attackers find a planted leak" in text
    assert "2 of 3 attackers find a planted leak" in text
    assert "found of what was planted" in text
    card = " ".join(write_model_card(full).read_text(encoding="utf-8").split())
    assert "Controls passed (3 of 3 attackers find a planted leak)" in card


def test_documents_escape(tmp_path: Path) -> None:
    values = {**full_audit(), "name": EVIL, "attributes": {EVIL: full_audit()["attributes"]["glasses"]}}
    made = markdown(values)
    assert "<script>" not in made
    assert "<script>" in plain_text(values)
    with pytest.raises(CheckpointError, match="verdict"):
        markdown({**values, "attributes": {"x": {}}})
