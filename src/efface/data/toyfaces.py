"""Drawn faces: a labelled data set of our own, in which the correlation of any two factors is known exactly.

Six factors (smiling, glasses, skin tone, hair colour, hat, age lines) are drawn on faces whose pose, light, background,
features and noise vary independently. Every floor of an audit follows from ``joint``; see ``docs/toyfaces.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8

from efface.data._factors import FACTORS, Correlation, check_whole, draw_labels, joint, parse_correlation
from efface.data._portrait import paint_faces
from efface.data._traits import RANGES, Stream, draw_traits
from efface.data.dataset import AttributeDataset, build_schema
from efface.errors import DataError, Problems, did_you_mean, expected

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Raised whenever the same seed draws other faces or labels; part of every fingerprint."""

SMALLEST, LARGEST = 32, 128
"""Widths of an image in pixels."""

_CHUNK = 32  # faces drawn at once: the planes of more than that leave the processor's cache


def draw_faces(
    labels: Mapping[str, np.ndarray], size: int = 48, seed: int = 0, batch: int = _CHUNK
) -> UInt8[np.ndarray, "N 3 S S"]:
    """Draw a face for each row of the labels.

    Face i depends on the seed, i and its own labels only: changing one label changes that factor and nothing else, and
    neither ``batch`` nor the number of faces matters. The same seed is the same people at every size.

    Args:
        labels: Class indices of all factors, each ``[N]``, as ``draw_labels`` gives them.
        size: Width and height in pixels, 32 to 128.
        seed: Not negative.
        batch: Faces drawn at once; a matter of speed and memory only.

    Returns:
        RGB images, 0 to 255.

    Raises:
        DataError: A factor is missing or unknown, a label out of range, or a setting not valid; all problems at once.

    Example:
        >>> labels = draw_labels(2, seed=1)
        >>> draw_faces(labels, size=32).shape
        (2, 3, 32, 32)
    """
    problems = Problems(DataError)
    check_whole(problems, "seed", seed, 0)
    check_whole(problems, "batch", batch, 1)
    _check_size(problems, size)
    _check_labels(problems, labels)
    problems.raise_if_any()
    n = len(labels["smiling"])
    images = np.empty((n, 3, size, size), np.uint8)
    traits, noise = Stream(seed, "traits"), Stream(seed, "noise")
    for start in range(0, n, batch):
        part = slice(start, min(start + batch, n))
        look = draw_traits(traits.uniform(part.stop - start, len(RANGES)))
        pixels = paint_faces(look, {name: np.asarray(labels[name][part]) for name in FACTORS}, size)
        pixels += noise.grain(part.stop - start, size) * look["noise"][:, None]
        pixels *= np.float32(255)
        pixels += np.float32(0.5)
        images[part] = np.clip(pixels, 0, 255, out=pixels)
    return images


def load_toyfaces(
    target: str = "smiling",
    attributes: Sequence[str] = ("glasses",),
    n: int = 12_000,
    size: int = 48,
    seed: int = 0,
    correlation: Correlation | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> AttributeDataset:
    """Draw a data set of faces; all six factors are columns.

    Args:
        target: Factor of the main task.
        attributes: Factors to unlearn.
        n: Number of faces, all splits together.
        size: Width and height in pixels, 32 to 128.
        seed: Of labels, faces and splits.
        correlation: Linked factors, ``{"smiling:glasses": 0.6}``; see ``draw_labels``.
        validation_fraction: Share of the faces for validation.
        test_fraction: Share of the faces for testing; training gets the rest.

    Raises:
        DataError: A setting or a name is not valid, or a split would be empty or lack a class.

    Example:
        >>> data = load_toyfaces(n=200, size=32, correlation={"smiling:glasses": 0.6})
        >>> data.target.classes, {split: len(rows) for split, rows in data.splits.items()}
        (('neutral', 'smiling'), {'train': 140, 'validation': 20, 'test': 40})
    """
    problems = Problems(DataError)
    _check_size(problems, size)
    _check_fractions(problems, validation_fraction, test_fraction)
    _check_roles(problems, target, attributes)
    try:
        labels = draw_labels(n, seed, correlation)
    except DataError as error:
        problems.add(str(error))
    problems.raise_if_any()
    splits = _draw_splits(n, seed, validation_fraction, test_fraction)
    schema = build_schema(labels, FACTORS, splits, target, list(attributes))
    links = parse_correlation(correlation)
    content = [VERSION, n, size, seed, links, validation_fraction, test_fraction]
    return AttributeDataset(
        images=draw_faces(labels, size, seed),
        labels=labels,
        splits=splits,
        schema=schema,
        name="toyfaces",
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
    )


def contact_sheet(images: UInt8[np.ndarray, "N 3 S S"], columns: int = 12, zoom: int = 2, gap: int = 2) -> Image:
    """Return the images side by side, row by row, as one picture.

    Args:
        images: RGB, 0 to 255.
        columns: Images in a row.
        zoom: Whole factor of enlargement, without smoothing.
        gap: White pixels between images, before the enlargement.
    """
    from PIL import Image as pil

    n, _, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return pil.fromarray(sheet.repeat(zoom, 0).repeat(zoom, 1))


def sample_sheet(people: int = 6, size: int = 48, seed: int = 4) -> Image:
    """Return the sheet of the documentation: people in pairs, without and with one factor; a factor per row."""
    rows = []
    for i, factor in enumerate(("glasses", "smiling", "hat", "age_lines")):
        labels = {name: values[i * people :] for name, values in draw_labels((i + 1) * people, seed).items()}
        for name in set(labels) & {"glasses", "hat", "age_lines"}:
            labels[name] = np.zeros_like(labels[name])
        pair = [draw_faces({**labels, factor: np.full(people, code)}, size, seed + i) for code in (0, 1)]
        rows.append(np.stack(pair, 1).reshape(-1, 3, size, size))
    return contact_sheet(np.concatenate(rows), 2 * people)


def _check_size(problems: Problems, size: object) -> None:
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or not SMALLEST <= size <= LARGEST:  # type: ignore[operator]
        problems.add(expected("size", f"an integer from {SMALLEST} to {LARGEST} (pixels)", size, "Usual: 48 or 64."))


def _check_fractions(problems: Problems, validation: object, test: object) -> None:
    good = True
    for argument, value in (("validation_fraction", validation), ("test_fraction", test)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < 1:  # type: ignore[operator]
            problems.add(expected(argument, "a number between 0 and 1", value))
            good = False
    if good and validation + test >= 1:  # type: ignore[operator]
        problems.add(f"Validation and test take {validation} + {test} of the faces; leave some for training.")


def _check_roles(problems: Problems, target: str, attributes: Sequence[str]) -> None:
    if isinstance(attributes, str):
        problems.add(expected("attributes", "a sequence of names", attributes, f"Try [{attributes!r}]."))
        return
    for name in (target, *attributes):
        if name not in FACTORS:
            problems.add(f"No factor {name!r} of the drawn faces. {did_you_mean(str(name), FACTORS)}")


def _check_labels(problems: Problems, labels: Mapping[str, np.ndarray]) -> None:
    """Note missing and unknown factors, odd shapes, and class indices out of range."""
    for name in labels.keys() - FACTORS.keys():
        problems.add(f"No factor {name!r} of the drawn faces. {did_you_mean(str(name), FACTORS)}")
    missing = [name for name in FACTORS if name not in labels]
    if missing:
        problems.add(f"Labels of all factors are needed; missing: {', '.join(missing)}.")
    given = {name: np.asarray(labels[name]) for name in FACTORS if name in labels}
    for name, values in given.items():
        top = len(FACTORS[name]) - 1
        if values.ndim != 1 or values.dtype.kind not in "iu":
            problems.add(expected(f"labels[{name!r}]", "a row of integers", f"{values.dtype} {list(values.shape)}"))
        elif len(values) and not (values.min() >= 0 and values.max() <= top):
            problems.add(expected(f"labels[{name!r}]", f"from 0 to {top}", [int(values.min()), int(values.max())]))
    lengths = {name: values.shape for name, values in given.items()}
    if len(set(lengths.values())) > 1:
        problems.add(f"Labels must have one length, but have {lengths}.")


def _draw_splits(n: int, seed: int, validation: float, test: float) -> dict[str, Int64[np.ndarray, " n"]]:
    """Share out the rows at random; each split keeps their order."""
    order = np.argsort(Stream(seed, "splits").uniform(n, 1)[:, 0], kind="stable")
    ends = np.cumsum([round(n * validation), round(n * test)])
    validation_rows, test_rows, train_rows = np.split(order, ends)
    return {"train": np.sort(train_rows), "validation": np.sort(validation_rows), "test": np.sort(test_rows)}


__all__ = ["FACTORS", "VERSION", "contact_sheet", "draw_faces", "draw_labels", "joint", "load_toyfaces", "sample_sheet"]
