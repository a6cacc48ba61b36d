"""A folder of parquet files in the Hugging Face layout, read in place: no second copy is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from efface.data.sources.base import CHUNK, NO_SPLIT, Encoded, RawLabels, Source, resolve_split, split_of
from efface.data.sources.columns import class_names, encoded_images, find_image_column, merge_names, merge_tables
from efface.errors import DataError

EDGE = 1 << 20
"""Bytes at each end of a file that its key covers."""


class ParquetSource(Source):
    """Parquet files; splits from their names (``train-00000-of-00002.parquet``) or folders (``train/0000.parquet``).

    Args:
        path: Folder, searched with its subfolders, or one file.
        image_column: Column with the images; None finds it.

    Raises:
        DataError: There is no readable parquet file, or no image column.
    """

    def __init__(self, path: Path, image_column: str | None = None):
        self.root = path if path.is_dir() else path.parent
        self.name = path.name if path.is_dir() else path.stem
        self.files, self.ignored = _with_split(_files(path), self.root)
        schema = _open(self.files[0]).schema_arrow
        self.image_column = find_image_column(schema, image_column)
        self.columns = tuple(name for name in schema.names if name != self.image_column)

    def key(self) -> str:
        """Return a hash of names, sizes, and the first and last MiB of each file.

        The end of a parquet file is its footer, which has the offsets, sizes and statistics of all pages.
        """
        digest = hashlib.sha256(f"parquet|{self.image_column}".encode())
        for file in self.files:
            size = file.stat().st_size
            digest.update(f"|{file.relative_to(self.root).as_posix()}|{size}|".encode())
            with file.open("rb") as opened:
                digest.update(opened.read(EDGE))
                opened.seek(max(size - EDGE, 0))
                digest.update(opened.read())
        return digest.hexdigest()

    def labels(self) -> RawLabels:
        """Read all columns but the image."""
        from datasets import Features

        tables, names, splits = [], {}, []
        for file in self.files:
            opened = _open(file)
            if self.image_column not in opened.schema_arrow.names:
                raise DataError(f"{file.name} has no column {self.image_column!r}, unlike {self.files[0].name}.")
            names[file.name] = class_names(Features.from_arrow_schema(opened.schema_arrow))
            kept = [name for name in opened.schema_arrow.names if name != self.image_column]
            tables.append(opened.read(columns=kept).replace_schema_metadata(None))
            splits.append(np.full(opened.metadata.num_rows, self._split(file), np.int8))
        table, merged = merge_tables(tables), merge_names(names)
        split, remarks = resolve_split(np.concatenate(splits), table, merged)
        return RawLabels(table, merged, split, (*self.ignored, *remarks))

    def images(self) -> Iterator[list[Encoded]]:
        """Yield the images of all files, one Arrow batch in memory at a time."""
        row = 0
        for file in self.files:
            with pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=CHUNK, columns=[self.image_column]):
                    yield list(encoded_images(batch.column(0), row, self.root))
                    row += batch.num_rows

    def _split(self, file: Path) -> int:
        return _file_split(file, self.root)


def _files(path: Path) -> list[Path]:
    """Return the parquet files, sorted; hidden files and folders are not searched."""
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*.parquet"))
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _with_split(files: list[Path], root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Keep the files whose names tell their split, all if none does; remark on the others."""
    named = [file for file in files if _file_split(file, root) != NO_SPLIT]
    others = [file.name for file in files if file not in named]
    if not named or not others:
        return files, ()
    return named, (f"{len(others)} parquet files name no split and are not used: {', '.join(others[:5])}.",)


def _file_split(file: Path, root: Path) -> int:
    return split_of(file.stem, *(part for part in reversed(file.relative_to(root).parts[:-1])))


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"Cannot read {file.name} as parquet: {error}.") from None
