"""Data sets of the Hugging Face hub, by name; ``datasets`` downloads them once and keeps them in its own cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from efface.data.schema import SPLITS
from efface.data.sources.base import CHUNK, Encoded, RawLabels, Source, resolve_split, split_of
from efface.data.sources.columns import class_names, encoded_images, find_image_column, merge_names, merge_tables
from efface.errors import DataError, did_you_mean

OPTIONS = ("config", "revision", "data_dir")


class HubSource(Source):
    """A hub data set.

    Args:
        name: For example ``HuggingFaceM4/FairFace``.
        image_column: Column with the images; None finds it.
        options: ``config`` (FairFace: "0.25" or "1.25"), ``revision``, ``data_dir``.

    Raises:
        DataError: The hub or the name can't be reached, an option is unknown, or there is no image column.
    """

    def __init__(self, name: str, image_column: str | None = None, options: dict[str, Any] | None = None):
        self.name = name
        options = dict(options or {})
        for option in options:
            if option not in OPTIONS:
                raise DataError(f"Unknown option {option!r} of a hub data set. {did_you_mean(option, OPTIONS)}")
        found = _download(name, options)
        self.parts = {part: data for part, data in found.items() if split_of(part) >= 0} or dict(found)
        unused = [part for part in found if part not in self.parts]
        self.ignored = (f"{len(unused)} splits are not used: {', '.join(unused)}.",) if unused else ()
        schema = next(iter(self.parts.values())).features.arrow_schema
        self.image_column = find_image_column(schema, image_column)
        self.columns = tuple(column for column in schema.names if column != self.image_column)

    def key(self) -> str:
        """Return a hash of the fingerprints that ``datasets`` keeps of each split."""
        prints = [f"{part}|{data._fingerprint}|{len(data)}" for part, data in self.parts.items()]
        return hashlib.sha256("|".join(["hub", self.name, self.image_column, *prints]).encode()).hexdigest()

    def labels(self) -> RawLabels:
        """Read all columns but the image."""
        tables = [self._arrow(data.remove_columns(self.image_column)) for data in self.parts.values()]
        names = merge_names({part: class_names(data.features) for part, data in self.parts.items()})
        splits = [np.full(len(data), split_of(part), np.int8) for part, data in self.parts.items()]
        table = merge_tables(tables)
        split, remarks = resolve_split(np.concatenate(splits), table, names)
        return RawLabels(table, names, split, (*self.ignored, *remarks))

    def images(self) -> Iterator[list[Encoded]]:
        """Yield the encoded images of all splits."""
        row = 0
        for data in self.parts.values():
            for table in data.select_columns(self.image_column).with_format("arrow").iter(CHUNK):
                yield list(encoded_images(table.column(0), row, None))
                row += table.num_rows

    @staticmethod
    def _arrow(data: Any) -> pa.Table:
        return data.with_format("arrow")[:].replace_schema_metadata(None)


def _download(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the splits of a hub data set; say what to do instead when that fails."""
    import datasets

    config = options.get("config")
    others = {option: value for option, value in options.items() if option != "config"}
    try:
        found = datasets.load_dataset(name, None if config is None else str(config), **others)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        advice = "Check the name and the connection, or give a folder that you have: --data DIR (`data.source`)."
        raise DataError(
            f"{name!r} is no folder here, and can't be had from the Hugging Face hub: {error} {advice}"
        ) from None
    except ValueError as error:
        raise DataError(f"The hub data set {name!r} needs more: {error} (--set data.options='{{config: …}}')") from None
    if not isinstance(found, dict):
        found = {SPLITS[0]: found}
    if not found or not any(len(data) for data in found.values()):
        raise DataError(f"No images found: the hub data set {name!r} has no rows.")
    return {part: data for part, data in found.items() if len(data)}
