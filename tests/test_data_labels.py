"""Label columns become classes by stated rules; splits are drawn by share and by seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.data.sources.base import RawLabels, resolve_split, split_of
from efface.data.sources.labels import NotClassesError, encode_column, encode_labels, natural_key
from efface.data.sources.splits import make_splits, take_out, without_duplicates
from efface.errors import DataError


def encode(values, name="x", names=None, dtype=None):
    return encode_column(name, pa.chunked_array([pa.array(values, dtype)]), names)


@pytest.mark.parametrize(
    ("values", "codes", "names"),
    [
        ([5, 7, 5, 7], [0, 1, 0, 1], ("5", "7")),
        ([True, False, None, True], [1, 0, -1, 1], ("0", "1")),
        ([-1, 1, 1, -1], [0, 1, 1, 0], ("0", "1")),
        ([-1, 0, 1, None, 1], [-1, 0, 1, -1, 1], ("0", "1")),
        ([1.0, float("nan"), 3.0, 1.0], [0, -1, 1, 0], ("1", "3")),
        (["b", "", "a", None, "b"], [1, -1, 0, -1, 1], ("a", "b")),
        (["10-19", "3-9", "0-2", "0-2"], [2, 1, 0, 0], ("0-2", "3-9", "10-19")),
    ],
)
def test_values_become_classes(values, codes, names):
    column = encode(values)
    assert column.codes.tolist() == codes
    assert column.codes.dtype == np.int64
    assert column.names == names


def test_named_classes_keep_their_names_even_without_images():
    column = encode([0, 2, -1, None], names=("a", "b", "c"))
    assert column.codes.tolist() == [0, 2, -1, -1]
    assert column.names == ("a", "b", "c")


def test_categoricals_of_pandas_are_texts():
    column = pa.chunked_array([pa.array(["b", "a", "b"]).dictionary_encode()])
    assert encode_column("x", column).names == ("a", "b")


@pytest.mark.parametrize(
    ("values", "name", "names", "message"),
    [
        ([0, 1], "fold", None, "names a split"),
        ([0.5, 1.0], "x", None, "decimal numbers"),
        ([float("inf"), 1.0], "x", None, "decimal numbers"),
        (list(range(65)) * 2, "x", None, "65 distinct values, more than 64"),
        ([f"f{i}" for i in range(5)], "x", None, "an identifier"),
        ([3, 3], "x", None, "one value only, 3"),
        ([None, None], "x", None, "no values"),
        ([[1], [2]], "x", None, "holds list"),
        ([0, 2], "x", ("a", "b"), "1 values outside its 2 class names"),
        ([0, 0], "x", ("a",), "one class only"),
    ],
)
def test_columns_that_are_no_classes_say_why(values, name, names, message):
    dtype = pa.int64() if values == [None, None] else None
    with pytest.raises(NotClassesError, match=message):
        encode(values, name, names, dtype)


def test_64_classes_are_still_classes():
    assert len(encode(list(range(64)) * 2).names) == 64


@given(st.lists(st.one_of(st.none(), st.integers(-1, 5)), min_size=3, max_size=40))
def test_codes_and_names_give_the_values_back(values):
    try:
        column = encode(values, dtype=pa.int64())
    except NotClassesError:
        return
    seen = {v for v in values if v is not None}
    back = [None if code < 0 else int(column.names[code]) for code in column.codes]
    if seen == {-1, 1}:
        assert back == [None if v is None else int(v > 0) for v in values]
    else:
        assert back == [None if v in (None, -1) else v for v in values]


@given(st.lists(st.text(alphabet="a1 -", max_size=5)))
def test_natural_order_is_total(texts):
    keys = [natural_key(text) for text in set(texts)]
    assert len({str(key) for key in keys}) == len(keys)
    for one, other in zip(sorted(keys)[:-1], sorted(keys)[1:], strict=True):
        assert one < other


def test_all_columns_are_sorted_into_classes_and_others():
    table = pa.table({"gender": [0, 1, 1, 0], "age": [1.5, 2, 3, 4], "fold": [0, 1, 2, 3]})
    found, refused = encode_labels(RawLabels(table, {"gender": ("m", "f")}, np.zeros(4, np.int8)))
    assert set(found) == {"gender"}
    assert set(refused) == {"age", "fold"}


def test_split_names():
    assert [split_of(n) for n in ("Train", "val-1", "x_test_2", "dev", "contest", "latest")] == [0, 1, 2, 1, -1, -1]


def test_a_column_names_the_split_only_where_files_do_not():
    table = pa.table({"partition": [0, 1, 2, 7]})
    none = np.full(4, -1, np.int8)
    split, remarks = resolve_split(none, table, {})
    assert split.tolist() == [0, 1, 2, -1]
    assert "1 rows belong to no split" in remarks[0]
    named = np.array([0, 0, 2, 2], np.int8)
    assert resolve_split(named, table, {})[0].tolist() == [0, 0, 2, 2]
    assert resolve_split(none, pa.table({"a": [1] * 4}), {})[0].tolist() == [0] * 4
    words = pa.table({"split": [1, 0, 2, 1]})
    assert resolve_split(none, words, {"split": ("test", "training", "val")})[0].tolist() == [0, 2, 1, 0]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=200),
    st.floats(0, 0.9),
    st.integers(0, 5),
)
def test_a_stratified_draw_takes_each_share_within_one(strata, fraction, seed):
    labels = np.array(strata)[:, None]
    taken = take_out(np.arange(len(strata)), labels, fraction, np.random.default_rng(seed))
    total = round(fraction * len(strata))
    assert len(np.unique(taken)) == total == len(taken)
    for stratum in range(4):
        wanted = total * (labels == stratum).sum() / len(strata)
        assert abs((labels[taken] == stratum).sum() - wanted) < 1 + 1e-9


def draw(seed, fractions=(0.1, 0.2), split=None, n=100):
    split = np.zeros(n, np.int8) if split is None else split
    usable = np.ones(len(split), bool)
    strata = np.stack([np.arange(len(split)) % 2, np.arange(len(split)) % 3], axis=1)
    return make_splits(split, usable, strata, dict(zip(("validation", "test"), fractions, strict=True)), seed)


def test_lacking_splits_come_out_of_train_by_seed():
    splits = draw(0)
    assert {k: len(v) for k, v in splits.items()} == {"train": 70, "validation": 10, "test": 20}
    assert sorted(np.concatenate(list(splits.values()))) == list(range(100))
    assert all((splits[k] == draw(0)[k]).all() for k in splits)
    assert (splits["test"] != draw(1)["test"]).any()


def test_splits_of_the_source_are_kept():
    split = np.repeat(np.array([0, 2, -1], np.int8), [50, 30, 20])
    splits = draw(0, split=split)
    assert splits["test"].tolist() == list(range(50, 80))
    assert len(splits["validation"]) == 5
    assert len(splits["train"]) == 45


def test_fractions_must_leave_rows_to_train_on():
    with pytest.raises(DataError, match="less than 1 together"):
        draw(0, (0.5, 0.5))


def test_duplicates_leave_the_earlier_split():
    splits = {"train": np.arange(4), "validation": np.arange(4, 6), "test": np.arange(6, 8)}
    hashes = np.array([1, 1, 2, 3, 2, 9, 9, 3], np.uint64)
    kept, remarks = without_duplicates(splits, hashes)
    assert kept["train"].tolist() == [0, 1]
    assert kept["validation"].tolist() == [4]
    assert kept["test"].tolist() == [6, 7]
    assert remarks == [
        "2 images of train occur pixel by pixel in validation or test; dropped from train.",
        "1 images of validation occur pixel by pixel in test; dropped from validation.",
    ]
