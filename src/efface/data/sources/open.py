"""Which source a name, folder and layout mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efface.data.sources.base import Source
from efface.data.sources.folder import celeba_folder, fairface_folder, metadata_files, metadata_folder
from efface.data.sources.hub import HubSource
from efface.data.sources.parquet import ParquetSource
from efface.errors import DataError, expected

CELEBA_COLUMNS = frozenset({"5_o_Clock_Shadow", "Smiling", "Male", "Young"})
FAIRFACE_COLUMNS = frozenset({"age", "gender", "race", "service_test"})


def convention(source: Source) -> str:
    """Return whose conventions the columns follow: ``celeba``, ``fairface``, or ``plain``."""
    if set(source.columns) >= CELEBA_COLUMNS:
        return "celeba"
    return "fairface" if set(source.columns) >= FAIRFACE_COLUMNS else "plain"


def open_source(name: str, layout: str, image_column: str | None, options: dict[str, Any]) -> Source:
    """Open a folder, a parquet file or a hub data set.

    Raises:
        DataError: The path does not exist, or holds nothing that the layout can be read from.
    """
    path = Path(name).expanduser()
    if layout == "hub" or (not path.exists() and not _looks_like_path(name, layout)):
        return HubSource(name, image_column, options)
    if not path.exists():
        hint = "Hub names have the form owner/name."
        raise DataError(expected("data.source", "an existing folder, a hub name or toyfaces", name, hint))
    if options:
        raise DataError(f"Folders take no options, but got: {', '.join(options)}.")
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".parquet":
            raise DataError(expected("data.source", "a folder or a parquet file", name))
        return ParquetSource(path, image_column)
    return _open_folder(path, layout, image_column)


def _open_folder(path: Path, layout: str, image_column: str | None) -> Source:
    """Look for what each layout is known by; official folders first, since they are the most specific."""
    if layout in ("auto", "celeba") and any(path.glob("list_attr_celeba.*")):
        return celeba_folder(path)
    if layout in ("auto", "fairface") and any(path.glob("fairface_label_*.csv")):
        return fairface_folder(path)
    if layout != "parquet" and metadata_files(path):
        return metadata_folder(path)
    if layout != "folder" and any(path.rglob("*.parquet")):
        return ParquetSource(path, image_column)
    looked = {
        "parquet": "*.parquet",
        "folder": "metadata.csv",
        "celeba": "list_attr_celeba.txt, metadata.csv or *.parquet",
        "fairface": "fairface_label_train.csv, metadata.csv or *.parquet",
    }.get(layout, "*.parquet, metadata.csv, list_attr_celeba.txt or fairface_label_train.csv")
    raise DataError(f"No images found: the folder {path.name!r} holds no {looked}.")


def _looks_like_path(name: str, layout: str) -> bool:
    """Tell a mistyped path from a hub name, so that a typing error is not looked up on the network."""
    if layout in ("parquet", "folder") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        return True
    return (
        "\\" in name
        or name.endswith((".parquet", ".csv", "/"))
        or (Path(name).parent != Path() and Path(name).parent.is_dir())
    )
