"""Every layout is read; every way to get it wrong has its message."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import data_files
from data_files import encoded, noise, write_csv, write_png
from efface.config import DataConfig
from efface.data.load import load, load_dataset
from efface.data.sources.folder import read_csv
from efface.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def read(tmp_path):
    def call(source, target="gender", attributes="race", **options):
        options = {"cache": tmp_path / "cache", "progress": False, **options}
        return load_dataset(source, target=target, attributes=attributes, **options)

    return call


def sizes(data):
    return {name: len(rows) for name, rows in data.splits.items()}


def test_parquet_keeps_pixels_splits_and_class_names(tmp_path, read):
    folder = data_files.parquet_folder(
        tmp_path / "p", {"train-0-of-2": 30, "train-1-of-2": 20, "valid": 20, "test": 20}
    )
    data = read(folder)
    assert sizes(data) == {"train": 50, "validation": 20, "test": 20}
    assert data.target.classes == ("male", "female")
    assert data.attributes[0].classes == ("0", "1", "2")
    assert data.name == "p"
    assert data.warnings == ()
    test = data.rows("test")
    for i, row in enumerate(test):
        assert (data.images[row].transpose(1, 2, 0) == noise(70 + i)).all()
        assert data.labels["gender"][row] == (70 + i) % 2


def test_parquet_in_folders_and_unnamed_files(tmp_path, read):
    root = tmp_path / "p"
    for split in ("train", "test"):
        data_files.parquet_folder(root / split, {"0000": 30 if split == "train" else 20})
    data_files.parquet_folder(root / "train", {"0000": 30})
    data_files.parquet_folder(root / "test", {"0000": 20}, width=8)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "train.parquet").write_bytes(b"junk")
    data_files.image_dataset(5, 90).to_parquet(root / "extra.parquet")
    data = read(root)
    # The test file holds the first 20 images of the train file once more.
    assert sizes(data)["test"] == 20
    assert sizes(data)["train"] + sizes(data)["validation"] == 10
    assert any("1 parquet files name no split and are not used: extra" in w for w in data.warnings)


def test_one_parquet_file_is_split_by_seed(tmp_path, read):
    file = data_files.parquet_folder(tmp_path / "p", {"faces": 100}) / "faces.parquet"
    data = read(file)
    assert sizes(data) == {"train": 70, "validation": 10, "test": 20}
    again, other = read(file), read(file, seed=1)
    assert again.fingerprint == data.fingerprint != other.fingerprint
    assert (again.rows("test") == data.rows("test")).all()
    limited = read(file, limit=9)
    assert max(sizes(limited).values()) == 9


def test_a_partition_column_gives_the_splits(tmp_path, read):
    parts = [0] * 30 + [1] * 15 + [2] * 15
    file = data_files.parquet_folder(tmp_path / "p", {"faces": 60}, partition=parts) / "faces.parquet"
    data = read(file)
    assert sizes(data) == {"train": 30, "validation": 15, "test": 15}
    assert "partition" not in data.labels


def test_plain_bytes_in_parquet_without_metadata(tmp_path, read):
    table = pa.table({"img": [encoded(noise(i)) for i in range(40)], **data_files.columns(40)})
    pq.write_table(table, tmp_path / "train.parquet")
    data = read(tmp_path / "train.parquet")
    assert data.image_shape == (3, 8, 8)


def test_metadata_csv_with_a_split_column(tmp_path, read):
    split = ["train"] * 24 + ["val"] * 12 + ["test"] * 12
    data = read(data_files.metadata_folder(tmp_path / "m", 48, split))
    assert sizes(data) == {"train": 24, "validation": 12, "test": 12}
    assert data.target.classes == ("female", "male")
    assert set(data.labels) == {"gender", "race"}
    assert (data.images[30].transpose(1, 2, 0) == noise(30)).all()


def test_metadata_csv_in_split_folders(tmp_path, read):
    root = tmp_path / "m"
    data_files.metadata_folder(root / "train", 30)
    data_files.metadata_folder(root / "test", 12, first=30)
    data = read(root)
    assert sizes(data) == {"train": 27, "validation": 3, "test": 12}


def test_metadata_csv_whose_file_names_start_with_the_split(tmp_path, read):
    root = tmp_path / "m"
    names = [f"{'train' if i < 30 else 'test'}/{i:03d}.png" for i in range(42)]
    for i, name in enumerate(names):
        data_files.write_png(root / name, noise(i))
    values = data_files.columns(42)
    rows = list(zip(names, values["gender"], values["race"], strict=True))
    data_files.write_csv(root / "metadata.csv", ["file_name", "gender", "race"], rows)
    assert sizes(read(root)) == {"train": 27, "validation": 3, "test": 12}


@pytest.mark.parametrize("as_csv", [False, True])
def test_official_celeba(tmp_path, read, as_csv):
    partition = [0] * 40 + [1] * 20 + [2] * 20
    folder = data_files.celeba_folder(tmp_path / "celeba", partition, as_csv)
    data = read(folder, "Smiling", ["Male"])
    assert sizes(data) == {"train": 40, "validation": 20, "test": 20}
    assert data.image_shape == (3, 64, 64)
    assert data.target.classes == ("0", "1")
    assert data.labels["Male"].tolist() == [(i >> 1) & 1 for i in range(80)]
    assert set(data.labels) == set(data_files.CELEBA)


def hub(monkeypatch, found, seen=None):
    """Let ``datasets.load_dataset`` return in-memory data, or raise."""
    import datasets

    def load_dataset(*args, **options):
        if seen is not None:
            seen.append((args, options))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_celeba_of_the_hub_with_booleans(monkeypatch, read):
    from datasets import DatasetDict

    def part(n, first):
        bits = {name: [bool((i >> bit) & 1) for i in range(n)] for bit, name in enumerate(data_files.CELEBA)}
        return data_files.image_dataset(n, first, celeb_id=[first + i for i in range(n)], **bits)

    hub(monkeypatch, DatasetDict(train=part(40, 0), valid=part(20, 40), test=part(20, 60)))
    data = read("someone/celeba", "Smiling", ["Male"])
    assert sizes(data) == {"train": 40, "validation": 20, "test": 20}
    assert data.image_shape == (3, 64, 64)
    assert "celeb_id" not in data.labels
    assert data.name == "someone/celeba"


@pytest.mark.parametrize("nested", ["", "fairface-img-margin025-trainval"])
def test_official_fairface(tmp_path, read, nested):
    data = read(data_files.fairface_folder(tmp_path / "ff", 48, 24, nested), attributes=["race", "age"])
    assert sizes(data) == {"train": 43, "validation": 5, "test": 24}
    assert data.attributes[1].classes == ("0-2", "3-9", "10-19", "more than 70")
    assert data.attributes[0].classes == ("Black", "East Asian", "White")
    assert "service_test" in data.labels


def test_fairface_of_the_hub_reads_validation_as_test(monkeypatch, read):
    from datasets import ClassLabel, DatasetDict

    def part(n, first):
        dataset = data_files.image_dataset(n, first, service_test=[i % 5 == 0 for i in range(n)]).remove_columns("age")
        dataset = dataset.add_column("age", [i % 2 for i in range(n)])
        return dataset.cast_column("age", ClassLabel(names=["0-2", "3-9"]))

    seen: list = []
    hub(monkeypatch, DatasetDict(train=part(40, 0), validation=part(20, 40)), seen)
    data = read("HuggingFaceM4/FairFace", attributes=["age"], config=0.25, revision="main")
    assert sizes(data) == {"train": 36, "validation": 4, "test": 20}
    assert seen == [(("HuggingFaceM4/FairFace", "0.25"), {"revision": "main"})]


def test_a_hub_data_set_with_a_selection_and_an_extra_split(monkeypatch, read):
    from datasets import DatasetDict

    part = data_files.image_dataset(60).select(range(59, -1, -1))
    hub(monkeypatch, DatasetDict(train=part, unsupervised=data_files.image_dataset(5, 90)))
    data = read("a/b")
    assert (data.images[0].transpose(1, 2, 0) == noise(59)).all()
    assert data.warnings == ("1 splits are not used: unsupervised.",)


def test_toyfaces_take_their_options():
    data = load(DataConfig(options={"n": 120, "correlation": {"smiling:glasses": 0.5}}, size=32), seed=3)
    assert len(data) == 120
    assert data.image_shape == (3, 32, 32)
    with pytest.raises(DataError, match="Unknown option 'm' of toyfaces"):
        load_dataset("toyfaces", target="smiling", attributes="glasses", m=3)


def test_options_that_are_settings_of_their_own():
    with pytest.raises(DataError, match=r"(?s)2 problems:.*Set it as `seed`.*Set it as `data\.size`"):
        load(DataConfig(options={"size": 3, "seed": 1}))


def test_load_passes_every_setting_on(tmp_path):
    folder = data_files.metadata_folder(tmp_path / "m", 60)
    settings = {"size": 4, "limit": 20, "cache": tmp_path / "c"}
    config = DataConfig(source=str(folder), target="gender", attributes=("race",), **settings)
    data = load(config, seed=5, progress=False)
    assert data.image_shape == (3, 4, 4)
    assert len(data.rows("train")) == 20
    assert (tmp_path / "c").is_dir()
    named = load_dataset(folder, target="gender", attributes=["race"], seed=5, progress=False, **settings)
    assert named.fingerprint == data.fingerprint


def test_importing_load_is_light():
    import subprocess

    code = (
        "import sys, efface.data.load; print([m for m in ('datasets', 'torch', 'PIL', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "datasets" not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "gendr"}, "No column 'gendr' with labels. Did you mean 'gender'"),
        ({"attributes": "rase"}, "Did you mean 'race'"),
        ({"target": "age"}, r"'age' has 90 distinct values, more than 64: not classes. Use 'age_bin'"),
        ({"target": "fold"}, "'fold' names a split"),
        ({"target": "one"}, "'one' has one value only"),
        ({"target": "gendr", "attributes": ["age", "x"]}, r"(?s)3 problems:.*gendr.*age.*'x'"),
        ({"target": "race"}, "both the target and an attribute"),
        (
            {"image_column": "race"},
            "`data.image_column` to be a column with images, but got 'race'. It holds int64",
        ),
        ({"image_column": "imag"}, "Did you mean 'image'"),
        ({"layout": "nope"}, "Expected `data.layout`"),
        ({"layout": "nope", "limit": 0, "size": -1, "attributes": [], "test_fraction": 1.0}, "5 problems"),
        ({"layout": "folder"}, "holds no metadata.csv"),
        ({"config": "a"}, "Folders take no options, but got: config"),
        ({"validation_fraction": 0.0}, "The validation split is empty"),
    ],
)
def test_wrong_requests(tmp_path, read, options, message):
    more = {"age_bin": [i % 4 for i in range(90)], "fold": [i % 10 for i in range(90)], "one": [1] * 90}
    folder = data_files.parquet_folder(tmp_path / "p", {"train": 90}, **more)
    with pytest.raises(DataError, match=message):
        read(folder, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "Expected `data.source` to be an existing folder"),
        ("a/b/c", "an existing folder"),
        ("faces.parquet", "an existing folder"),
    ],
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(monkeypatch, read, name, message):
    hub(monkeypatch, AssertionError("asked the hub"))
    with pytest.raises(DataError, match=message):
        read(name)


def test_a_mistyped_folder_beside_others_is_a_path(tmp_path, monkeypatch, read):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, AssertionError("asked the hub"))
    with pytest.raises(DataError, match="an existing folder"):
        read("data/utkfcae")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach"),
            "can't be had from the Hugging Face hub: .*give a folder that you have: --data DIR",
        ),
        (ValueError("Config name is missing"), r"needs more: Config name is missing \(--set data.options"),
    ],
)
def test_hub_failures_say_what_to_do(monkeypatch, read, error, message):
    hub(monkeypatch, error)
    with pytest.raises(DataError, match=message):
        read("a/b")


def test_hub_options_and_empty_hub_data(monkeypatch, read):
    hub(monkeypatch, {})
    with pytest.raises(DataError, match="Did you mean 'config'"):
        read("a/b", confg="x")
    with pytest.raises(DataError, match="has no rows"):
        read("a/b")


def test_a_split_column_of_other_words_is_no_license_to_redraw(tmp_path, read):
    """Whom the user held out would be trained on."""
    for row in range(12):
        write_png(tmp_path / "a" / f"{row}.png", noise(row))
    rows = [[f"{row}.png", row % 2, row % 3, "fit" if row < 8 else "holdout"] for row in range(12)]
    write_csv(tmp_path / "a" / "metadata.csv", ["file_name", "gender", "race", "split"], rows)
    with pytest.raises(
        DataError, match=r"Expected `column split` to be names of splits, but got 'fit, holdout'\. Known"
    ):
        read(tmp_path / "a")


def test_tables_that_are_no_comma_separated_utf8_say_so(tmp_path):
    (tmp_path / "a.csv").write_text("id;race\n1;2\n")
    with pytest.raises(DataError, match=r"columns separated by commas .*, but got \"one column with ';' in its name\""):
        read_csv((tmp_path / "a.csv").read_bytes(), tmp_path / "a.csv")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_csv("race\nn\u00e9\n".encode("latin-1"), tmp_path / "b.csv")
    with pytest.raises(DataError, match="has no rows below its header"):
        read_csv(b"race\n", tmp_path / "c.csv")


def test_empty_folders_files_and_tables(tmp_path, read):
    (tmp_path / "e").mkdir()
    with pytest.raises(DataError, match=r"No images found: the folder 'e' holds no \*.parquet, metadata.csv"):
        read(tmp_path / "e")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(DataError, match="a folder or a parquet file"):
        read(tmp_path / "x.txt")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"Cannot read bad\.parquet as parquet"):
        read(tmp_path / "bad.parquet")
    (tmp_path / "e" / "metadata.csv").write_text("file_name,a\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no rows"):
        read(tmp_path / "e")
    (tmp_path / "e" / "metadata.csv").write_text("filename,a\nx.png,1\n")
    with pytest.raises(DataError, match=r"no column 'file_name'\. Did you mean 'filename'"):
        read(tmp_path / "e")
    (tmp_path / "e" / "metadata.csv").write_text("file_name,a\nx.png,1\n,2\n")
    with pytest.raises(DataError, match=r"1 rows of metadata\.csv have no 'file_name'"):
        read(tmp_path / "e")
    (tmp_path / "e" / "metadata.csv").write_text("file_name,a\nx.png,1,5\n")
    with pytest.raises(DataError, match=r"Cannot read metadata\.csv"):
        read(tmp_path / "e")
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "plain.parquet")
    with pytest.raises(DataError, match="No column with images found among: a"):
        read(tmp_path / "plain.parquet")


def test_two_image_columns_must_be_chosen_from(tmp_path, read):
    values = {name: [encoded(noise(i)) for i in range(40)] for name in ("left", "right")}
    pq.write_table(pa.table({**values, **data_files.columns(40)}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="one of the image columns left, right"):
        read(tmp_path / "train.parquet")
    assert len(read(tmp_path / "train.parquet", image_column="right")) == 40


def test_files_that_disagree(tmp_path, read):
    from datasets import ClassLabel

    folder = data_files.parquet_folder(tmp_path / "p", {"train": 30})
    other = data_files.image_dataset(10, 30)
    other.cast_column("gender", ClassLabel(names=["female", "male"])).to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match=r"'gender' has other class names in train\.parquet than before"):
        read(folder)
    other.remove_columns("race").add_column("race", [["a"]] * 10).to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match="columns of different types"):
        read(folder)
    other.rename_column("image", "picture").to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match="has no column"):
        read(folder)


def test_incomplete_official_folders(tmp_path, read):
    celeba = data_files.celeba_folder(tmp_path / "c", [0] * 8)
    (celeba / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match="7 images of list_attr_celeba are not in list_eval_partition"):
        read(celeba)
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"lacks list_eval_partition\.txt"):
        read(celeba)
    celeba = data_files.celeba_folder(tmp_path / "d", [0] * 8)
    (celeba / "img_align_celeba").rename(celeba / "images")
    with pytest.raises(DataError, match=r"expected '000001\.jpg' in the folder img_align_celeba"):
        read(celeba)
    fairface = data_files.fairface_folder(tmp_path / "f", 8, 4)
    (fairface / "fairface_label_val.csv").unlink()
    with pytest.raises(DataError, match=r"lacks fairface_label_val\.csv"):
        read(fairface)


def test_missing_labels(tmp_path, read):
    root = data_files.metadata_folder(tmp_path / "m", 60)
    values = data_files.columns(60)
    rows = [
        [f"images/{i}.png", "" if i < 3 else values["gender"][i], "" if i == 10 else values["race"][i], ""]
        for i in range(60)
    ]
    data_files.write_csv(root / "metadata.csv", ["file_name", "gender", "race", "none"], rows)
    data = read(root)
    assert data.warnings == ("3 images have no 'gender', the target; dropped.",)
    assert sum(sizes(data).values()) == 57
    assert data.labels["race"][10] == -1
    assert sum(data.attributes[0].missing.values()) == 1
    with pytest.raises(DataError, match="'none' holds null, not classes"):
        read(root, "none")


def test_a_test_split_without_labels_is_taken_out_of_train(tmp_path, read):
    folder = data_files.parquet_folder(tmp_path / "p", {"train": 80})
    unlabelled = data_files.image_dataset(20, 80)
    unlabelled.map(lambda row: {"gender": -1}, features=unlabelled.features).to_parquet(folder / "test.parquet")
    data = read(folder)
    assert sizes(data) == {"train": 56, "validation": 8, "test": 16}
    assert data.warnings[0].startswith("20 images have no 'gender'")


def test_one_class_in_a_split_is_refused(tmp_path, read):
    from datasets import concatenate_datasets

    folder = tmp_path / "p"
    folder.mkdir()
    whole = data_files.image_dataset(60)
    whole.to_parquet(folder / "train.parquet")
    males = data_files.image_dataset(60, 60).filter(lambda row: row["gender"] == 0)
    concatenate_datasets([males]).to_parquet(folder / "test.parquet")
    with pytest.raises(DataError, match=r"The target 'gender' has 1 class\(es\) in the test split"):
        read(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
def test_real_data(tmp_path, read):
    shutil.copy(REAL / "utkface" / "validation-00000-of-00001.parquet", tmp_path / "faces.parquet")
    data = read(tmp_path / "faces.parquet")
    assert data.images.shape == (2244, 3, 64, 64)
    assert sizes(data) == {"train": 1571, "validation": 224, "test": 449}
    assert set(data.labels) == {"gender", "race", "age_bin"}
    assert data.attributes[0].classes == ("White", "Black", "Asian", "Indian", "Others")
    assert 50 < np.mean(data.images) < 200


def test_the_split_column_may_be_written_in_any_case(tmp_path, read):
    folder = data_files.metadata_folder(tmp_path / "m", 48, ["train"] * 24 + ["val"] * 12 + ["test"] * 12)
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace("split", "Split", 1))
    assert sizes(read(folder)) == {"train": 24, "validation": 12, "test": 12}
