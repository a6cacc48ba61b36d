"""Columns made from the classes of others, where the source lacks them; and the layouts' own summaries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import data_files
from data_files import encoded, noise
from efface.config import Config, DataConfig, DerivedColumn
from efface.data import store as store_module
from efface.data.load import LAYOUT_SUMMARIES, LAYOUTS, load, load_dataset
from efface.data.sources.derive import _between, _spans, with_derived
from efface.data.store import Store
from efface.errors import ConfigError, DataError
from efface.experiments import find_config

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ANIMALS = {"bird", "cat", "deer", "dog", "frog", "horse"}
LATE = {"late": {"of": "race", "values": ["2"], "names": ["early", "late"]}}


@pytest.fixture
def folder(tmp_path):
    return data_files.parquet_folder(tmp_path / "p", {"train": 60, "test": 24})


@pytest.fixture
def read(tmp_path):
    def call(source, target="late", attributes="gender", derive=LATE, **options):
        options = {"cache": tmp_path / "cache", "progress": False, **options}
        return load_dataset(source, target=target, attributes=attributes, derive=derive, **options)

    return call


def hub_cifar(monkeypatch):
    """Columns ``img`` and ``label`` only, as ``uoft-cs/cifar10`` has them."""
    import datasets

    def part(n, first):
        values = {
            "img": [{"bytes": encoded(noise(first + i)), "path": None} for i in range(n)],
            "label": [i % 10 for i in range(n)],
        }
        dataset = datasets.Dataset.from_dict(values).cast_column("img", datasets.Image())
        return dataset.cast_column("label", datasets.ClassLabel(names=list(CIFAR)))

    found = datasets.DatasetDict(train=part(120, 0), test=part(40, 120))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: found)


def test_the_cifar10_preset_reads_the_layout_of_the_hub(monkeypatch, tmp_path):
    hub_cifar(monkeypatch)
    changes = ["data.source=uoft-cs/cifar10", f"data.cache={tmp_path / 'c'}"]
    data = load(find_config("cifar10-living-class", changes).data, progress=False)
    assert data.target.name == "is_animal"
    assert data.target.classes == ("vehicle", "animal")
    assert data.labels["is_animal"].dtype == np.int64
    assert data.labels["is_animal"].tolist() == [int(CIFAR[i] in ANIMALS) for i in data.labels["label"]]
    assert data.target.counts["test"] == (16, 24)
    assert data.attributes[0].classes == CIFAR


def test_the_column_can_be_an_attribute_or_neither(folder, read):
    as_attribute = read(folder, "gender", "late")
    assert as_attribute.attributes[0].classes == ("early", "late")
    beside = read(folder, "gender", "race")
    assert [column.name for column in beside.schema.others] == ["late"]
    for data in (as_attribute, beside):
        assert data.labels["late"].tolist() == [int((i // 2) % 3 == 2) for i in range(84)]


def test_missing_stays_missing(tmp_path, read):
    rows = [[f"images/{i}.png", i % 2, "" if i % 10 == 0 else "abc"[i % 3]] for i in range(60)]
    root = data_files.metadata_folder(tmp_path / "m", 60)
    data_files.write_csv(root / "metadata.csv", ["file_name", "gender", "kind"], rows)
    data = read(root, "gender", "is_a", {"is_a": {"of": "kind", "values": ["a"]}})
    assert data.labels["is_a"].tolist() == [-1 if i % 10 == 0 else int(i % 3 == 0) for i in range(60)]
    assert data.attributes[0].classes == ("no", "yes")
    assert sum(data.attributes[0].missing.values()) == 6


def test_the_column_of_the_source_wins(tmp_path, folder, read):
    plain = read(folder, "gender", "race", None)
    # Not read, and so not checked either: the copy need not have the column that the definition names.
    data = read(folder, "gender", "race", {"gender": {"of": "nothing", "values": ["x"]}})
    assert data.target.classes == ("male", "female")
    assert data.labels["gender"].tolist() == plain.labels["gender"].tolist()
    assert data.fingerprint == plain.fingerprint
    with pytest.raises(DataError, match="'age' has another value in every row"):
        read(data_files.parquet_folder(tmp_path / "q", {"train": 60}), "age", "race", {"age": LATE["late"]})


def test_decoded_images_do_not_depend_on_it_but_the_fingerprint_does(tmp_path, folder, read, monkeypatch):
    plain = read(folder, "gender", "race", None)

    def decoded(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(store_module, "_write", decoded)
    derived = read(folder, "gender", "race")
    other = read(folder, "gender", "race", {"late": {**LATE["late"], "values": ["1", "2"]}})
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len({plain.fingerprint, derived.fingerprint, other.fingerprint}) == 3
    assert read(folder, "gender", "race").fingerprint == derived.fingerprint
    assert (derived.images == plain.images).all()
    assert "late" not in read(folder, "gender", "race", None).labels


def test_load_and_load_dataset_agree(folder, read, tmp_path):
    definitions = {"late": DerivedColumn(of="race", values=("2",), names=("early", "late"))}
    roles = {"target": "late", "attributes": ("gender",), "cache": tmp_path / "cache"}
    config = DataConfig(source=str(folder), derive=definitions, **roles)
    assert load(config, progress=False).fingerprint == read(folder).fingerprint
    assert read(folder, derive=definitions).fingerprint == read(folder).fingerprint
    limited = read(folder, limit=10)
    assert sum(limited.target.counts["train"]) == 10


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        (
            {"of": "rase"},
            "^Expected `data.derive.late.of` to be a column with labels, but got 'rase'. Did you mean 'race'",
        ),
        ({"of": "age"}, "but got 'age'. That column has 84 distinct values, more than 64: not classes"),
        (
            {"of": "gender", "values": ["femal"]},
            r"`data.derive.late.values` .*of 'gender', but got 'femal'. Did you mean",
        ),
        ({"values": ["0", "1", "2"]}, "some but not all classes of 'race'"),
        ({"names": ["a", "a"]}, r"two different class names, but got \('a', 'a'\)"),
        ({"values": []}, "`data.derive.late.values`: tuple should have at least 1 item"),
        ({"value": ["2"]}, "Unknown setting `data.derive.late.value`. Did you mean 'values'"),
        ({"names": [False, "late"]}, "`data.derive.late.names.0`: input should be a valid string, but got False"),
    ],
)
def test_wrong_definitions(folder, read, derive, message):
    with pytest.raises(DataError, match=message):
        read(folder, derive={"late": {**LATE["late"], **derive}})


def test_all_problems_are_told_at_once(folder, read):
    definitions = {
        "late": {"of": "race", "values": ["2", "3", "x"], "names": ["a", "a"]},
        "other": {"of": "rase", "values": ["2"]},
    }
    with pytest.raises(DataError) as caught:
        read(folder, "late", ["gendr", "other"], definitions)
    text = str(caught.value)
    assert text.startswith("5 problems:")
    for part in ("late.names", "but got '3'", "but got 'x'", "other.of", "No column 'gendr'"):
        assert part in text
    # A column whose definition is wrong is not reported as missing, too.
    assert "No column 'late'" not in text
    with pytest.raises(DataError, match=r"(?s)2 problems:.*late\.of.*data\.size"):
        read(folder, derive={"late": {"values": ["2"]}}, size=0)


def test_toyfaces_take_no_derived_columns():
    with pytest.raises(DataError, match=r"(?s)2 problems:.*`data.derive` to be empty for toyfaces.*option 'm'"):
        load_dataset("toyfaces", target="late", attributes="glasses", derive=LATE, m=3)


def test_settings_are_checked_and_written_back(tmp_path):
    with pytest.raises(ConfigError, match=r"Unknown setting `data\.derive\.x\.off`\. Did you mean 'of'\?"):
        Config.from_mapping({"data": {"derive": {"x": {"of": "a", "values": ["b"], "off": 1}}}})
    with pytest.raises(ConfigError, match=r"`data\.derive\.x\.of`: field required"):
        Config().updated(["data.derive={x: {values: [a]}}"])
    config = Config().updated(["data.derive={x: {of: race, values: [1, 2]}}"])
    assert config.data.derive["x"].values == ("1", "2")
    assert config.fingerprint() != Config().fingerprint()
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    assert Config.from_yaml(path) == config
    assert yaml.safe_load(path.read_text())["data"]["derive"]["x"]["names"] == ["no", "yes"]


def test_every_layout_has_its_summary():
    assert set(LAYOUT_SUMMARIES) == set(LAYOUTS)
    assert next(iter(LAYOUT_SUMMARIES)) == "toyfaces"
    assert all(LAYOUT_SUMMARIES.values())


# ---------------------------------------------------------------- numbers, cut into classes


def measured(tmp_path, values, name="height"):
    root = data_files.metadata_folder(tmp_path / "m", len(values))
    rows = [[f"images/{i}.png", "ab"[i % 2], "" if value is None else value] for i, value in enumerate(values)]
    data_files.write_csv(root / "metadata.csv", ["file_name", "gender", name], rows)
    return root


def known_heights(heights):
    return np.array([np.nan if height is None else height for height in heights])


def test_decimals_are_cut_at_their_quantiles(tmp_path, read):
    heights = [None if i % 12 == 0 else round(1.5 + 0.01 * ((i * 37) % 60), 2) for i in range(60)]
    root = measured(tmp_path, heights)
    data = read(root, "gender", "stature", {"stature": {"of": "height", "bins": 4}})
    codes, known = data.labels["stature"], np.array([np.nan if h is None else h for h in heights])
    assert (codes[np.isnan(known)] == -1).all()
    sizes = np.bincount(codes[codes >= 0])
    assert (len(sizes), sizes.sum(), np.ptp(sizes)) == (4, 55, 1)
    np.testing.assert_array_equal(data.numbers["stature"], known_heights(heights))
    assert list(data.numbers) == ["stature"]
    # Ordered: nobody of a class is taller than anybody of the next; names are the spans.
    spans = [(known[codes == k].min(), known[codes == k].max()) for k in range(4)]
    assert all(a[1] < b[0] for a, b in pairwise(spans))
    assert data.attributes[0].classes == tuple(f"{low:g}–{high:g}" for low, high in spans)
    with pytest.raises(
        DataError,
        match=r"holds decimal numbers, not classes\. Cut it into classes under another name: --set 'data\.derive",
    ):
        read(root, "gender", "height", {})


def test_edges_cut_where_they_say_and_go_up(tmp_path, read):
    root = measured(tmp_path, [i % 40 for i in range(80)], "age")
    grown = {"grown": {"of": "age", "edges": [18, 30.5]}}
    data = read(root, "gender", "grown", grown)
    ages = np.arange(80) % 40
    assert data.labels["grown"].tolist() == ((ages >= 18).astype(int) + (ages >= 31)).tolist()
    assert data.attributes[0].classes == ("below 18", "18 to 30.5", "from 30.5")
    named = read(root, "gender", "grown", {"grown": {**grown["grown"], "names": ["child", "young", "old"]}})
    assert named.attributes[0].classes == ("child", "young", "old")
    assert named.fingerprint != data.fingerprint
    # Seventy whole numbers are too many classes, and numbers all the same.
    root = measured(tmp_path, [i % 70 for i in range(140)], "age")
    assert (
        read(root, "gender", "grown", grown).labels["grown"].tolist()
        == (((np.arange(140) % 70) >= 18).astype(int) + ((np.arange(140) % 70) >= 31)).tolist()
    )


def test_missing_numbers_are_those_that_are_missing_as_classes(tmp_path, read):
    # An empty cell makes floats of whole numbers, and -1 stays missing; of decimals it is a number.
    ages = [None if i == 3 else -1 if i % 5 == 0 else i % 80 for i in range(160)]
    data = read(measured(tmp_path, ages, "age"), "gender", "x", {"x": {"of": "age", "bins": 3}})
    assert (data.labels["x"] < 0).tolist() == [age in (None, -1) for age in ages]
    scores = [-1 if i % 5 == 0 else i / 100 for i in range(160)]
    data = read(measured(tmp_path / "s", scores, "score"), "gender", "x", {"x": {"of": "score", "bins": 3}})
    assert (data.labels["x"] >= 0).all()


def test_names_tell_small_numbers_apart_without_many_digits():
    assert _spans(np.array([3e-5, 0.12, 0.31, 0.5, 0.77, 0.93]), np.array([0, 0, 1, 1, 2, 2])) == (
        "0.00003–0.12", "0.31–0.5", "0.77–0.93",
    )  # fmt: skip
    assert _between(np.array([0.3, 0.3 + 1e-14])) == ("below 0.3", "0.3 to 0.30000000000001", "from 0.30000000000001")
    assert _between(np.array([18.0, 1e6])) == ("below 18", "18 to 1000000", "from 1000000")


def test_a_column_without_values_or_all_the_same_is_not_cut(tmp_path, read):
    with pytest.raises(DataError) as caught:
        read(measured(tmp_path, [5] * 80, "age"), "gender", "age", {})
    assert "Cut it" not in str(caught.value)
    store = Store(
        "", np.zeros((2, 3, 1, 1), np.uint8), {"x": np.array([-1, -1])}, {"x": ("0", "1")}, {}, np.zeros(2, np.int8),
        np.zeros(2, np.uint64), np.zeros(0, np.int64),
    )  # fmt: skip
    for column in (DerivedColumn(of="x", bins=2), DerivedColumn(of="x", edges=(1,))):
        with pytest.raises(DataError, match="a column of numbers, but got 'x'"):
            with_derived(store, {"cut": column})


def test_many_equal_numbers_make_fewer_classes(tmp_path, read):
    root = measured(tmp_path, [0] * 60 + list(range(1, 21)), "children")
    cut = {"of": "children", "bins": 10}
    data = read(root, "gender", "many", {"many": cut}, test_fraction=0.3, validation_fraction=0.3)
    assert data.attributes[0].classes == ("0–4", "5–12", "13–20")
    assert np.bincount(data.labels["many"]).tolist() == [64, 8, 8]
    half = read(root, "gender", "many", {"many": {**cut, "bins": 2}})  # the median is the least: one above
    assert half.attributes[0].classes == ("0", "1–20")


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3)), min_size=2, max_size=200),
    st.integers(2, 12),
)
def test_every_class_of_bins_is_filled_ordered_and_named_apart(numbers, bins):
    values = np.array(numbers)
    n = len(values)
    store = Store(
        "", np.zeros((n, 3, 1, 1), np.uint8), {}, {}, {"x": "holds numbers"}, np.zeros(n, np.int8),
        np.zeros(n, np.uint64), np.zeros(0, np.int64), numbers={"x": values},
    )  # fmt: skip
    column = DerivedColumn(of="x", bins=bins)
    if len(set(numbers)) == 1:
        with pytest.raises(DataError, match="too much alike"):
            with_derived(store, {"cut": column})
        return
    made = with_derived(store, {"cut": column})
    codes, names = made.labels["cut"], made.classes["cut"]
    assert set(codes) == set(range(len(names)))
    assert len(set(names)) == len(names) <= bins
    assert all(values[codes == k].max() < values[codes == k + 1].min() for k in range(len(names) - 1))


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"of": "age"}, "`data.derive.x`: expected one of values, bins and edges"),
        ({"of": "age", "bins": 3, "edges": [1]}, "expected one of values, bins and edges"),
        ({"of": "age", "bins": 1}, "`data.derive.x.bins`: input should be greater than or equal to 2"),
        ({"of": "age", "edges": [9, 3]}, "expected edges that rise"),
        ({"of": "age", "edges": [3, 9], "names": ["a", "b"]}, "expected 3 names"),
        ({"of": "age", "bins": 2, "names": ["a", "a"]}, "to be 2 different class names"),
        ({"of": "age", "edges": [0, 9]}, "edges above 0 and up to 39, where the numbers lie"),
        ({"of": "age", "edges": [9, 50]}, "edges above 0 and up to 39"),
        ({"of": "agee", "bins": 3}, "a column of numbers, but got 'agee'. Did you mean 'age'"),
        ({"of": "gender", "bins": 3}, "a column of numbers, but got 'gender'. Its classes: a, b."),
    ],
)
def test_wrong_cuts(tmp_path, read, definition, message):
    with pytest.raises(DataError, match=message):
        read(measured(tmp_path, [i % 40 for i in range(80)], "age"), "gender", "x", {"x": definition})


def test_cuts_are_written_back_as_they_were_given(tmp_path):
    config = Config().updated(["data.derive={old: {of: age, bins: 8}, tall: {of: height, edges: [1.8]}}"])
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    assert yaml.safe_load(path.read_text())["data"]["derive"]["old"] == {"of": "age", "bins": 8}
    assert Config.from_yaml(path) == config
