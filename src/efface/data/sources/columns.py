"""Hugging Face's way to store images and class names in Arrow, shared by parquet files and hub data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from efface.data.sources.base import Encoded
from efface.errors import DataError, did_you_mean, expected


def is_image(field: pa.Field) -> bool:
    """Return whether an Arrow column can hold encoded images: ``struct{bytes, path}`` or plain bytes."""
    if pa.types.is_struct(field.type):
        return {"bytes", "path"} <= {child.name for child in field.type}
    return pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)


def find_image_column(schema: pa.Schema, wanted: str | None) -> str:
    """Return the image column: the wanted one, else the only one, else the one called image, img or similar.

    Raises:
        DataError: There is none, there are several, or the wanted one is missing or holds no images.
    """
    found = [field.name for field in schema if is_image(field)]
    if wanted is not None:
        if wanted in found:
            return wanted
        if wanted in schema.names:
            hint = f"It holds {schema.field(wanted).type}. Columns with images: {', '.join(found) or 'none'}."
            raise DataError(expected("data.image_column", "a column with images", wanted, hint))
        raise DataError(f"No column {wanted!r} with images. {did_you_mean(wanted, found or schema.names)}")
    if not found:
        raise DataError(f"No column with images found among: {', '.join(schema.names)}.")
    usual = [name for name in found if name.lower() in ("image", "img", "picture", "face")]
    if len(found) > 1 and len(usual) != 1:
        hint = "For example: --set data.image_column=" + found[0]
        raise DataError(expected("data.image_column", f"one of the image columns {', '.join(found)}", None, hint))
    return usual[0] if usual else found[0]


def class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the class names of the ClassLabel columns of ``datasets.Features``."""
    from datasets import ClassLabel

    return {name: tuple(feature.names) for name, feature in features.items() if isinstance(feature, ClassLabel)}


def merge_names(parts: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Return the class names that all parts (files, splits) agree on.

    Raises:
        DataError: Two parts name a column's classes differently, so that equal indices differ in meaning.
    """
    merged: dict[str, tuple[str, ...]] = {}
    for part, names in parts.items():
        for column, classes in names.items():
            if merged.setdefault(column, classes) != classes:
                raise DataError(f"Column {column!r} has other class names in {part} than before: {', '.join(classes)}.")
    return merged


def merge_tables(tables: list[pa.Table]) -> pa.Table:
    """Return the tables under each other; a column that one lacks is missing there.

    Raises:
        DataError: A column has types that don't fit together.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"The files of the data set have columns of different types: {error}.") from None


def encoded_images(column: pa.Array | pa.ChunkedArray, first_row: int, folder: Path | None) -> Iterator[Encoded]:
    """Yield the images of an Arrow column; paths are relative to ``folder``."""
    for row, value in enumerate(column.to_pylist(), first_row):
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is None and path is not None:
            content = Path(path) if folder is None else folder / path
        yield path or f"row {row}", content
