"""Embeddings and labels from files and tables: what is read is what was written, and every refusal."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from efface.audit.arrays import read_features, read_table
from efface.audit.embeddings import load_embeddings
from efface.errors import DataError

N, D = 12, 5


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def races(n=N):
    return ["a", "b"] * (n // 2)


def write(kind, values, folder):
    frame = pd.DataFrame({"emb": list(values), "race": races()})
    wide = pd.DataFrame(values, columns=[f"f{i}" for i in range(D)]).assign(race=races())
    features = datasets.Features(
        {"emb": datasets.List(datasets.Value("float32"), length=D), "race": datasets.ClassLabel(names=["x", "y"])}
    )
    data = datasets.Dataset.from_dict({"emb": values.tolist(), "race": [0, 1] * (N // 2)}, features=features)
    if kind == "npy":
        np.save(folder / "emb.npy", values)
        return folder / "emb.npy"
    if kind == "parquet":
        frame.to_parquet(folder / "emb.parquet")
        return str(folder / "emb.parquet")
    if kind == "saved":
        datasets.disable_progress_bars()
        data.save_to_disk(str(folder / "saved"))
        return folder / "saved"
    return {"array": values, "tensor": torch.from_numpy(values), "pandas": frame, "wide": wide, "dataset": data}[kind]


@pytest.mark.parametrize("kind", ["array", "tensor", "npy", "parquet", "pandas", "wide", "dataset", "saved"])
def test_what_is_read_is_what_was_written(kind, values, tmp_path):
    found, table = read_features(write(kind, values, tmp_path))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float32
    if kind in ("array", "tensor", "npy"):
        assert table is None
    else:
        assert table.table.column_names == ["race"]
        names = table.names.get("race")
        codes = [0, 1] * (N // 2) if names else races()
        assert table.table.column("race").to_pylist() == codes
        assert names == (("x", "y") if kind in ("dataset", "saved") else None)


def test_maps_and_tokens_come_as_nested_lists():
    maps = np.random.default_rng(1).normal(size=(4, 2, 3, 3))
    features = datasets.Features({"h": datasets.Array3D((2, 3, 3), "float32")})
    found, _ = read_features(datasets.Dataset.from_dict({"h": maps.tolist()}, features=features))
    np.testing.assert_allclose(found, maps, rtol=1e-6)
    assert read_features(maps[:, 0])[0].shape == (4, 3, 3)


def test_splits_of_a_data_set_are_kept(values):
    data = datasets.Dataset.from_dict({"emb": values.tolist(), "race": races()})
    _, table = read_features(datasets.DatasetDict({"train": data, "test": data}))
    assert table.split.tolist() == [0] * N + [2] * N


def test_parquet_files_of_a_folder_name_their_splits(values, tmp_path):
    for name in ("train", "validation"):
        pd.DataFrame({"emb": list(values), "race": races()}).to_parquet(tmp_path / f"{name}.parquet")
    found, table = read_features(tmp_path)
    assert found.shape == (2 * N, D)
    assert table.split.tolist() == [0] * N + [1] * N


def test_the_column_can_be_named(values):
    frame = pd.DataFrame({"one": list(values), "two": list(2 * values), "race": races()})
    with pytest.raises(DataError, match=r"Columns with lists of numbers: one, two\."):
        read_features(frame)
    np.testing.assert_allclose(read_features(frame, "two")[0], 2 * values)
    with pytest.raises(DataError, match=r"no column 'tow'\. Did you mean 'two'"):
        read_features(frame, "tow")
    with pytest.raises(DataError, match="holds string, not lists of numbers"):
        read_features(pa.table({"race": races(), "one": values.tolist()}), "race")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (np.zeros(3), r"\[n, D\], \[n, T, D\] or \[n, C, H, W\].*efface\.certify"),
        (np.zeros((0, 3)), r"float64 \[0, 3\]"),
        (np.array([["a"]]), "<U1"),
        (np.full((3, 2), np.nan), r"3 rows of 'features' hold numbers that are not finite in float32 \(first: row 0\)"),
        (pa.table({"h": [[1.0], [1.0, 2.0]]}), "lists of one length in every row.*lengths from 1 to 2"),
        (pa.table({"h": [[1.0], None]}), "1 rows of column 'h' have no embedding"),
        (3, "a table, a mapping of columns or a path"),
        ("no/such/emb.npy", "a file that exists"),
        ("no/such/emb.parquet", "There is no such file"),
        ("plain", "There is no such file"),
    ],
)
def test_what_is_no_embedding_is_refused(source, told):
    with pytest.raises(DataError, match=told):
        read_features(source)


def test_damaged_files_are_refused(tmp_path):
    for name in ("a.npy", "a.parquet"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(DataError, match="Cannot read"):
            read_features(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no parquet file"):
        read_features(tmp_path / "empty")


def test_labels_come_from_csv_mappings_and_tables(tmp_path):
    (tmp_path / "labels.csv").write_text("race,split\na,train\nb,test\n")
    assert read_table(tmp_path / "labels.csv").table.column_names == ["race", "split"]
    assert read_table({"race": ["a", "b"], "n": [1, 2]}).table.num_rows == 2
    with pytest.raises(DataError, match="make no table"):
        read_table({"race": ["a", "b"], "n": [1]})
    with pytest.raises(DataError, match="Expected `labels` to be CSV, parquet"):
        read_table("labels.txt")


def test_columns_that_arrow_has_no_type_for():
    with pytest.raises(DataError, match="The table `labels` can't be read"):
        read_table(pd.DataFrame({"z": pd.Series(["a", 1, 2.5], dtype=object)}))


def test_intervals_are_no_classes_and_no_trouble_unasked():
    table = pd.DataFrame({"z": ["a", "b"] * 30, "bin": pd.cut(pd.Series(range(60)), 2)})
    features = np.random.default_rng(0).normal(size=(60, 2))
    assert set(load_embeddings(features, table, ["z"], None).labels) == {"z"}
    with pytest.raises(DataError, match=r"holds .*interval.*, not classes"):
        load_embeddings(features, table, ["bin"], None)


def test_tab_separated_labels_and_repeated_headers(tmp_path):
    (tmp_path / "labels.tsv").write_text("race\tage\na\t1\nb\t2\n")
    assert read_table(tmp_path / "labels.tsv").table.column_names == ["race", "age"]
    (tmp_path / "labels.csv").write_text("race,race\na,1\n")
    with pytest.raises(DataError, match="named more than once: race"):
        read_table(tmp_path / "labels.csv")
