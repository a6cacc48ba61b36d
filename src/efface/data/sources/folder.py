"""Folders of image files with a table of labels: ``metadata.csv``, and the official CelebA and FairFace layouts."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from jaxtyping import Int8

from efface.data.sources.base import CHUNK, NO_SPLIT, SPLIT_NAMES, Encoded, RawLabels, Source, resolve_split, split_of
from efface.data.sources.columns import merge_tables
from efface.errors import DataError, did_you_mean, expected


class FolderSource(Source):
    """Image files named by a table.

    Args:
        name: Used in reports.
        files: Path of each row's image.
        table: Label columns.
        split: Index into SPLITS per row, -1 where files and folders don't tell.
    """

    def __init__(self, name: str, files: list[Path], table: pa.Table, split: Int8[np.ndarray, " N"]):
        self.name, self.files, self.table, self.split = name, files, table, split
        self.columns = tuple(table.column_names)

    def key(self) -> str:
        """Return a hash of the labels, and of name, size and modification time of each image."""
        digest = hashlib.sha256(b"folder|")
        with pa.ipc.new_stream(sink := io.BytesIO(), self.table.schema) as writer:
            writer.write_table(self.table.combine_chunks())
        digest.update(sink.getvalue())
        digest.update(self.split.tobytes())
        for file in self.files:
            try:
                status = file.stat()
                digest.update(f"|{file}|{status.st_size}|{status.st_mtime_ns}".encode())
            except OSError:
                digest.update(f"|{file}|missing".encode())
        return digest.hexdigest()

    def labels(self) -> RawLabels:
        """Return the columns of the table."""
        split, remarks = resolve_split(self.split, self.table, {})
        return RawLabels(self.table, {}, split, remarks)

    def images(self) -> Iterator[list[Encoded]]:
        """Yield the paths of the images."""
        for i in range(0, len(self.files), CHUNK):
            yield [(file.name, file) for file in self.files[i : i + CHUNK]]


def metadata_folder(path: Path) -> FolderSource:
    """Open an image folder in the Hugging Face layout.

    Either ``metadata.csv`` with a column ``file_name`` (relative to it) lies in the folder, with an optional column
    ``split``; or each of ``train/``, ``validation/``, ``test/`` has one of its own.

    Raises:
        DataError: A table is unreadable or has no column ``file_name``.
    """
    tables, files, splits = [], [], []
    for metadata in metadata_files(path):
        table = read_csv(metadata.read_bytes(), metadata, texts=("file_name",))
        names = _column(table, "file_name", metadata).to_pylist()
        folder = metadata.parent
        inside = split_of(folder.name) if folder != path else NO_SPLIT
        found = [split_of(*Path(name).parts[:1]) if len(Path(name).parts) > 1 else NO_SPLIT for name in names]
        named_by_column = bool({"split", "partition"} & {name.strip().lower() for name in table.column_names})
        splits += [inside if folder != path or named_by_column else each for each in found]
        files += [folder / name for name in names]
        tables.append(table)
    return FolderSource(path.name, files, merge_tables(tables), np.asarray(splits, np.int8))


def metadata_files(path: Path) -> list[Path]:
    """Return the ``metadata.csv`` of a folder, else those of its split folders."""
    own = path / "metadata.csv"
    if own.is_file():
        return [own]
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name.lower() in SPLIT_NAMES)
    return [folder / "metadata.csv" for folder in folders if (folder / "metadata.csv").is_file()]


def celeba_folder(path: Path) -> FolderSource:
    """Open the official CelebA folder: images, ``list_attr_celeba`` and ``list_eval_partition`` as .txt or .csv.

    Raises:
        DataError: A file is missing, or image names differ between the two lists.
    """
    table = _celeba_list(path, "list_attr_celeba")
    partition = _celeba_list(path, "list_eval_partition")
    names = table.column(0).to_pylist()
    of = dict(zip(partition.column(0).to_pylist(), partition.column(1).to_pylist(), strict=True))
    lacking = sum(name not in of for name in names)
    if lacking:
        raise DataError(f"{lacking} images of list_attr_celeba are not in list_eval_partition.")
    folder = next((f for f in _nested(path / "img_align_celeba") if (f / names[0]).is_file()), None)
    if folder is None:
        raise DataError(f"No images found: expected {names[0]!r} in the folder img_align_celeba next to the lists.")
    split = np.asarray([of[name] if of[name] in (0, 1, 2) else NO_SPLIT for name in names], np.int8)
    return FolderSource(path.name, [folder / name for name in names], table, split)


def fairface_folder(path: Path) -> FolderSource:
    """Open the official FairFace folder: ``fairface_label_train.csv``, ``…_val.csv``, folders ``train``, ``val``.

    The images may lie one folder deeper, as in the published archives. The published 'val' part is the test split.

    Raises:
        DataError: A table is missing or lacks the column ``file``.
    """
    tables, files, splits = [], [], []
    for part, split in (("train", 0), ("val", 2)):
        listed = path / f"fairface_label_{part}.csv"
        if not listed.is_file():
            raise DataError(f"The FairFace folder {path.name!r} lacks {listed.name}.")
        table = read_csv(listed.read_bytes(), listed, texts=("file",))
        names = _column(table, "file", listed).to_pylist()
        root = next((f for f in (path, *_folders(path)) if names and (f / names[0]).is_file()), path)
        files += [root / name for name in names]
        splits += [split] * len(names)
        tables.append(table)
    return FolderSource(path.name, files, merge_tables(tables), np.asarray(splits, np.int8))


def read_csv(content: bytes, path: Path, texts: tuple[str, ...] = ()) -> pa.Table:
    """Parse CSV; columns in ``texts`` stay text.

    Raises:
        DataError: It can't be parsed, or has no rows.
    """
    options = csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()), strings_can_be_null=True)
    try:
        parsing = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        table = csv.read_csv(io.BytesIO(content), parse_options=parsing, convert_options=options)
    except pa.ArrowInvalid as error:
        raise DataError(f"Cannot read {path.name}: {error}.") from None
    if not table.num_rows:
        raise DataError(f"{path.name} has no rows below its header.")
    if binary := [field.name for field in table.schema if pa.types.is_binary(field.type)]:
        raise DataError(f"{path.name} is not UTF-8 (column {binary[0]!r}). Save it as UTF-8.")
    if table.num_columns == 1 and (other := [mark for mark in ";\t|" if mark in table.column_names[0]]):
        wanted = "tabs" if path.suffix == ".tsv" else "commas (tabs in a .tsv)"
        raise DataError(
            expected(path.name, f"columns separated by {wanted}", f"one column with {other[0]!r} in its name")
        )
    return table


def _celeba_list(path: Path, stem: str) -> pa.Table:
    """Read one of CelebA's lists: the official text, or CSV with a header."""
    text, table = path / f"{stem}.txt", path / f"{stem}.csv"
    if table.is_file():
        header = table.read_text().split(",", 1)[0].strip()
        return read_csv(table.read_bytes(), table, texts=(header,))
    if not text.is_file():
        raise DataError(f"The CelebA folder {path.name!r} lacks {stem}.txt (or .csv).")
    lines = text.read_text().strip()
    if stem == "list_attr_celeba":
        # First line: number of images; second: names of the attributes, without one for the file names.
        _, header, lines = lines.split("\n", 2)
        lines = f"image_id {header.strip()}\n{lines}"
    else:
        lines = f"image_id partition\n{lines}"
    return read_csv(re.sub(r"[ \t\r]+", ",", re.sub(r"[ \t\r]+$", "", lines, flags=re.M)).encode(), text, ("image_id",))


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataError(f"{path.name} has no column {name!r}. {did_you_mean(name, table.column_names)}")
    missing = pc.sum(pc.is_null(table.column(name))).as_py()
    if missing:
        raise DataError(f"{missing} rows of {path.name} have no {name!r}.")
    return table.column(name)


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []


def _nested(path: Path) -> list[Path]:
    return [path, path / path.name]
