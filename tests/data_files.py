"""Small data sets of noise images in each layout that the readers know, written by the tests."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CELEBA = ("5_o_Clock_Shadow", "Male", "Smiling", "Young")


def noise(seed: int, width: int = 8, height: int | None = None) -> np.ndarray:
    """An image that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 256, (height or width, width, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def columns(n: int, first: int = 0) -> dict[str, list]:
    """Two independent binary columns and one of three classes."""
    rows = range(first, first + n)
    return {
        "gender": [i % 2 for i in rows],
        "race": [(i // 2) % 3 for i in rows],
        "age": [20 + i for i in rows],
    }


def image_dataset(n: int, first: int = 0, width: int = 8, **more: list):
    """An in-memory ``datasets.Dataset`` with an image column and ClassLabel gender."""
    from datasets import ClassLabel, Dataset, Image, Value

    values = columns(n, first)
    data = {
        "image": [{"bytes": encoded(noise(first + i, width)), "path": f"{first + i}.png"} for i in range(n)],
        **values,
        **more,
    }
    dataset = Dataset.from_dict(data)
    dataset = dataset.cast_column("image", Image()).cast_column("gender", ClassLabel(names=["male", "female"]))
    return dataset.cast_column("age", Value("int64"))


def parquet_folder(path: Path, sizes: dict[str, int], width: int = 8, **more: list) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    first = 0
    for name, n in sizes.items():
        image_dataset(n, first, width, **more).to_parquet(path / f"{name}.parquet")
        first += n
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def metadata_folder(path: Path, n: int, split: Sequence[str] | None = None, first: int = 0) -> Path:
    """``metadata.csv`` beside its images, with gender as text, race as number, and perhaps a column split."""
    values = columns(n, first)
    rows = []
    for i in range(n):
        write_png(path / "images" / f"{first + i}.png", noise(first + i))
        row = [f"images/{first + i}.png", ("male", "female")[values["gender"][i]], values["race"][i]]
        rows.append([*row, split[i]] if split else row)
    write_csv(path / "metadata.csv", ["file_name", "gender", "race", *(["split"] if split else [])], rows)
    return path


def celeba_folder(path: Path, partition: Sequence[int], as_csv: bool = False) -> Path:
    """The official CelebA folder, or its .csv variant with doubly nested images."""
    n = len(partition)
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    values = [[1 if (i >> bit) & 1 else -1 for bit in range(len(CELEBA))] for i in range(n)]
    images = path / "img_align_celeba" / ("img_align_celeba" if as_csv else "")
    images.mkdir(parents=True)
    for i, name in enumerate(names):
        (images / name).write_bytes(encoded(noise(i, 22, 27), "JPEG"))
    if as_csv:
        rows = [[name, *row] for name, row in zip(names, values, strict=True)]
        write_csv(path / "list_attr_celeba.csv", ["image_id", *CELEBA], rows)
        rows = [list(row) for row in zip(names, partition, strict=True)]
        write_csv(path / "list_eval_partition.csv", ["image_id", "partition"], rows)
        return path
    lines = [f"{name} {' '.join(f'{v:2d}' for v in row)} " for name, row in zip(names, values, strict=True)]
    (path / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(CELEBA) + " ", *lines]) + "\n")
    rows = [f"{name} {part}" for name, part in zip(names, partition, strict=True)]
    (path / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return path


FAIRFACE_AGES = ("0-2", "10-19", "3-9", "more than 70")


def fairface_rows(n: int, first: int, folder: str) -> list[list[object]]:
    return [
        [
            f"{folder}/{i + 1}.jpg",
            FAIRFACE_AGES[i % 4],
            ("Male", "Female")[i % 2],
            ("White", "Black", "East Asian")[(i // 2) % 3],
            str(i % 3 == 0),
        ]
        for i in range(first, first + n)
    ]


def fairface_folder(path: Path, train: int, val: int, nested: str = "") -> Path:
    """The official FairFace folder; the archives hold train/ and val/ one folder deeper."""
    for part, n, first in (("train", train, 0), ("val", val, train)):
        rows = fairface_rows(n, first, part)
        write_csv(path / f"fairface_label_{part}.csv", ["file", "age", "gender", "race", "service_test"], rows)
        for row in rows:
            file = path / nested / str(row[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(noise(zlib.crc32(str(row[0]).encode())), "JPEG"))
    return path
