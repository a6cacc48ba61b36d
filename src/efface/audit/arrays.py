"""Embeddings and their labels from files and tables: .npy, parquet, CSV, columns of Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efface.audit.store import FeatureArray
from efface.data.sources.base import NO_SPLIT, RawLabels, split_of
from efface.data.sources.columns import class_names, merge_names, merge_tables
from efface.data.sources.folder import read_csv
from efface.errors import DataError, did_you_mean, expected

KINDS = "a .npy file, parquet, a saved Hugging Face data set or a hub name"
FEWEST = 2
"""Decimal columns from which on they are taken for an embedding, one number each."""


def read_features(
    source: Any, column: str | None = None, argument: str = "features"
) -> tuple[FeatureArray, RawLabels | None]:
    """Return embeddings, and the other columns where they come in a table.

    Args:
        source: An array, a tensor, a table (pyarrow, pandas, ``datasets``); or the path of a ``.npy`` file, a parquet
            file or folder, a folder of ``save_to_disk``; or a hub name.
        column: Column of the table with the embeddings; None finds the only one that holds lists of numbers, else takes
            all columns of decimal numbers.
        argument: What messages call it.

    Returns:
        ``[n, D]``, ``[n, T, D]`` or ``[n, C, H, W]`` float32; and the table, without that column, or None.

    Raises:
        DataError: The source can't be read, or holds no embeddings.
    """
    if isinstance(source, (str, Path)) and is_array(source):
        return _checked(_load_npy(Path(source), argument), str(source)), None
    if hasattr(source, "detach"):
        source = source.detach().float().cpu().numpy()
    if isinstance(source, np.ndarray):
        return _checked(source, argument), None
    labels = read_table(source, argument)
    return _out_of_table(labels, column, _called(source))


def is_array(source: Any) -> bool:
    """Whether a source of embeddings is an array, a tensor or a .npy file: without columns."""
    stored = isinstance(source, (str, Path)) and Path(source).suffix == ".npy"
    return stored or isinstance(source, np.ndarray) or hasattr(source, "detach")


def read_table(source: Any, argument: str = "labels") -> RawLabels:
    """Return a table with its class names and splits (-1 where it has none).

    Args:
        source: A mapping of columns, a table (pyarrow, pandas, ``datasets``), or a path or hub name.
        argument: What messages call it.

    Raises:
        DataError: The source can't be read.
    """
    if isinstance(source, (str, Path)):
        return _read_path(Path(source).expanduser(), str(source), argument)
    if isinstance(source, pa.Table):
        return _plain(source)
    if hasattr(source, "with_format") or _is_parts(source):
        return _of_datasets(dict(source) if _is_parts(source) else {"": source})
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # pandas, not imported here
        try:
            return _plain(pa.Table.from_pandas(source, preserve_index=False))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError) as error:
            raise DataError(f"The table `{argument}` can't be read: {error}.") from None
    if isinstance(source, Mapping):
        return _plain(_of_mapping(source, argument))
    raise DataError(expected(argument, "a table, a mapping of columns or a path", type(source).__name__))


def _load_npy(path: Path, argument: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(expected(argument, "a file that exists", str(path))) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"Cannot read the array {str(path)!r}: {error}.") from None


def _checked(values: np.ndarray, name: str) -> FeatureArray:
    """Refuse what is no embedding: other shapes, other types, numbers that are not finite."""
    if values.dtype.kind not in "fiub" or not 2 <= values.ndim <= 4 or 0 in values.shape:
        hint = (
            "Rows are people. For a code per person, see `efface.certify`." if values.ndim == 1 else "Rows are people."
        )
        wanted = "numbers of shape [n, D], [n, T, D] or [n, C, H, W]"
        raise DataError(expected(name, wanted, f"{values.dtype} {list(values.shape)}", hint))
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(values, np.float32)
    bad = ~np.isfinite(found.reshape(len(found), -1)).all(1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{int(bad.sum())} rows of {name!r} hold numbers that are not finite in float32 (first: row {first})."
        )
    return found


def _read_path(path: Path, name: str, argument: str) -> RawLabels:
    if path.suffix in (".csv", ".tsv") and path.is_file():
        return _plain(read_csv(path.read_bytes(), path))
    if path.suffix == ".parquet" and path.is_file():
        return _of_parquet([path])
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            from datasets import load_from_disk

            return read_table(load_from_disk(str(path)), argument)
        files = sorted(path.rglob("*.parquet"))
        if files:
            return _of_parquet(files)
        raise DataError(f"The folder {name!r} for `{argument}` holds no parquet file and no saved data set.")
    if path.exists() or path.suffix or name.startswith((".", "/", "~")) or name.count("/") != 1:
        kinds = KINDS if argument != "labels" else KINDS.replace("a .npy file", "CSV")
        raise DataError(expected(argument, kinds, name, "" if path.exists() else "There is no such file."))
    from efface.data.sources.hub import _download

    return _of_datasets(_download(name, {}))


def _of_parquet(files: list[Path]) -> RawLabels:
    tables, names, splits = [], {}, []
    for file in files:
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"Cannot read {file.name} as parquet: {error}.") from None
        names[file.name] = _class_names(table.schema)
        tables.append(table.replace_schema_metadata(None))
        splits.append(np.full(len(table), split_of(file.stem, file.parent.name), np.int8))
    split = np.concatenate(splits) if len(files) > 1 else np.full(len(tables[0]), NO_SPLIT, np.int8)
    return RawLabels(merge_tables(tables), merge_names(names), split)


def _of_datasets(parts: Mapping[str, Any]) -> RawLabels:
    """Splits of ``datasets``, by name."""
    names = merge_names({part: class_names(data.features) for part, data in parts.items()})
    tables = [data.with_format("arrow")[:].replace_schema_metadata(None) for data in parts.values()]
    splits = [np.full(len(data), split_of(part), np.int8) for part, data in parts.items()]
    return RawLabels(merge_tables(tables), names, np.concatenate(splits))


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Class names that ``datasets`` wrote into a file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import Features

    return class_names(Features.from_arrow_schema(schema))


def _of_mapping(columns: Mapping[str, Any], argument: str) -> pa.Table:
    try:
        return pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise DataError(f"The columns of `{argument}` make no table: {error}.") from None


def _is_parts(source: Any) -> bool:
    return isinstance(source, Mapping) and bool(source) and all(hasattr(v, "with_format") for v in source.values())


def _plain(table: pa.Table) -> RawLabels:
    names = _class_names(table.schema)
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise DataError(f"Columns are named more than once: {', '.join(twice)}.")
    return RawLabels(table.replace_schema_metadata(None), names, np.full(len(table), NO_SPLIT, np.int8))


def _called(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else "features"


def _out_of_table(labels: RawLabels, column: str | None, called: str) -> tuple[FeatureArray, RawLabels]:
    """Take the embeddings out of a table."""
    table = labels.table
    names = [field.name for field in table.schema if _holds_lists(field.type)]
    if column is not None and column not in table.column_names:
        raise DataError(f"{called!r} has no column {column!r}. {did_you_mean(column, names or table.column_names)}")
    decimals = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    if column is None and not names and len(decimals) >= FEWEST:
        values = np.stack([table.column(name).to_numpy() for name in decimals], 1)
        return _checked(values, called), _without(labels, decimals)
    if column is None and len(names) != 1:
        found = f"Columns with lists of numbers: {', '.join(names) or 'none'}."
        raise DataError(expected("column", f"the column of {called!r} with the embeddings", None, found))
    chosen = names[0] if column is None else column
    return _checked(_stack(table.column(chosen), chosen), chosen), _without(labels, [chosen])


def _without(labels: RawLabels, names: list[str]) -> RawLabels:
    return RawLabels(labels.table.drop_columns(names), labels.names, labels.split, labels.warnings)


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _holds_lists(kind: pa.DataType) -> bool:
    """Whether a column holds lists (of lists) of numbers."""
    kind = _storage(kind)
    if not _is_list(kind):
        return False
    while _is_list(kind):
        kind = kind.value_type
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _stack(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return nested lists of equal lengths as one array."""
    if not len(column):
        raise DataError(f"Column {name!r} has no rows.")
    values: Any = pa.concat_arrays([getattr(chunk, "storage", chunk) for chunk in column.chunks])
    if not _is_list(values.type):
        raise DataError(f"Column {name!r} holds {values.type}, not lists of numbers.")
    shape = [len(values)]
    while _is_list(values.type):
        if values.null_count:
            raise DataError(f"{values.null_count} rows of column {name!r} have no embedding.")
        lengths = pc.min_max(pc.list_value_length(values)).as_py()
        if lengths["min"] != lengths["max"]:
            wanted = "lists of one length in every row"
            raise DataError(expected(name, wanted, f"lengths from {lengths['min']} to {lengths['max']}"))
        shape.append(lengths["max"])
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)
