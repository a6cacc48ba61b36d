"""``load_dataset``: one call from a name or folder to an ``AttributeDataset``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from efface.config import Config, DataConfig, DerivedColumn
from efface.data.dataset import AttributeDataset
from efface.errors import ConfigError, DataError, Problems, did_you_mean, expected

LAYOUTS: tuple[str, ...] = get_args(DataConfig.model_fields["layout"].annotation)
LAYOUT_SUMMARIES: dict[str, str] = {
    "toyfaces": "faces drawn by efface, known by the name toyfaces; splits are drawn",
    "auto": "looks for celeba, fairface, folder, parquet in this order; what is no path here is a hub name",
    "hub": "a name OWNER/NAME on the Hugging Face hub; its splits",
    "parquet": "a file or a folder of *.parquet; train, validation, test in file or folder names",
    "folder": "images with metadata.csv; folders train, validation, test, or a column split",
    "celeba": "list_attr_celeba.txt (or .csv) beside img_align_celeba; its partition file",
    "fairface": "fairface_label_train.csv and fairface_label_val.csv; val is the test split",
}
"""How each layout is recognised, and where its splits come from."""
CELEBA_SIZE = 64
"""Pixels for CelebA where no size is asked for: its images are not square."""


def load(config: DataConfig, seed: int = 0, progress: bool = True) -> AttributeDataset:
    """Read the data set that a configuration describes; see ``load_dataset``.

    Raises:
        DataError: As ``load_dataset``; or ``options`` names a setting of its own right.
    """
    settings = {
        **config.model_dump(exclude={"flip", "shift", "options", "derive"}),
        "derive": config.derive,
        "seed": seed,
        "progress": progress,
    }
    problems = Problems(DataError)
    for name in sorted(set(settings) & set(config.options)):
        problems.add(f"{name!r} is no option of a source. Set it as `{'seed' if name == 'seed' else 'data.' + name}`.")
    problems.raise_if_any()
    return load_dataset(**settings, **config.options)


def load_dataset(
    source: str | Path,
    *,
    target: str,
    attributes: str | Sequence[str],
    layout: str = "auto",
    image_column: str | None = None,
    size: int | None = None,
    limit: int | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    cache: str | Path | None = None,
    derive: Mapping[str, DerivedColumn | Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> AttributeDataset:
    """Read, decode (once) and split a data set of images with labels.

    Args:
        source: Hugging Face hub name; folder of parquet files; image folder with ``metadata.csv``; official CelebA or
            FairFace folder; or ``toyfaces``.
        target: Column of the main task.
        attributes: Column or columns to unlearn.
        layout: ``auto`` looks at the folder and the columns; see docs/data.md.
        image_column: Column with the images; None finds it.
        size: Images become size×size pixels (centre crop, resize); None keeps square ones, and means 64 for CelebA.
        limit: At most so many images per split.
        validation_fraction: Share of train taken out where the source has no validation split.
        test_fraction: Share of train taken out where the source has no test split.
        cache: Folder of decoded images; None: ``$EFFACE_CACHE`` or ``~/.cache/efface``.
        derive: Columns to make where the source lacks them, by name: two classes from those of another column, or
            numbers cut into classes; mappings as in a configuration's ``data.derive``. A column of the source wins over
            a derived one of its name.
        seed: Of the splits that are drawn, of ``limit`` and of toyfaces.
        progress: Show a bar while decoding.
        **options: Of the source. Hub: ``config``, ``revision``, ``data_dir``. toyfaces: ``n``, ``correlation``.

    Returns:
        The data set; ``warnings`` counts what was dropped and why.

    Raises:
        DataError: The source can't be read, or lacks what was asked for; all such problems at once.

    Example:
        >>> data = load_dataset("toyfaces", target="smiling", attributes="glasses", n=200, progress=False)
        >>> data.image_shape, data.target.name
        ((3, 48, 48), 'smiling')
    """
    problems = Problems(DataError)
    _check_types(source, target, attributes, {"size": size, "limit": limit, "seed": seed}, problems)
    size, limit, seed = size and int(size), limit and int(limit), int(seed)  # NumPy's are integers too
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    derived = _derived(derive or {}, problems)
    _check_arguments(layout, names, size, limit, fractions, problems)
    if str(source) == "toyfaces" or layout == "toyfaces":
        return _toyfaces(target, names, size, seed, fractions, derived, options).limited(limit, seed)

    from efface.data.sources.assemble import assemble
    from efface.data.sources.open import convention, open_source
    from efface.data.store import open_store

    opened = open_source(str(source), layout, image_column, options)
    kind = layout if layout in ("celeba", "fairface") else convention(opened)
    store = open_store(opened, size or (CELEBA_SIZE if kind == "celeba" else None), _path(cache), progress)
    return assemble(opened, store, target, names, fractions, seed, kind, derived).limited(limit, seed)


def _derived(derive: Mapping[str, DerivedColumn | Mapping[str, Any]], problems: Problems) -> dict[str, DerivedColumn]:
    """Return the definitions, checked as those of a configuration are."""
    try:
        return Config.from_mapping({"data": {"derive": derive}}).data.derive
    except ConfigError as error:
        problems.add(str(error))
        return {}


def _check_types(
    source: object, target: object, attributes: object, numbers: Mapping[str, Any], problems: Problems
) -> None:
    """Tell of arguments of other types, before anything is done with them."""
    problems.check("data.source", source, (str, os.PathLike), "a folder, a hub name or toyfaces")
    if isinstance(source, str) and not source.strip():
        problems.add(expected("data.source", "a folder, a hub name or toyfaces", source))
    problems.check("data.target", target, str, "the name of a column")
    problems.check("data.attributes", attributes, (str, list, tuple), "names of columns")
    for name, value in numbers.items():
        problems.check(f"data.{name}" if name != "seed" else name, value, (Integral, NoneType), "an integer")
    if isinstance(numbers["seed"], Integral) and numbers["seed"] < 0:
        problems.add(expected("seed", "an integer from 0 on", numbers["seed"]))
    problems.raise_if_any()


def _check_arguments(
    layout: str,
    attributes: list[str],
    size: int | None,
    limit: int | None,
    fractions: dict[str, float],
    problems: Problems,
) -> None:
    """Tell of every argument out of range, and of the problems so far."""
    if layout not in LAYOUTS:
        problems.add(expected("data.layout", "a known layout", layout, did_you_mean(layout, LAYOUTS)))
    if not attributes:
        problems.add(expected("data.attributes", "at least one column to unlearn", attributes))
    for name, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            problems.add(expected(f"data.{name}", "an integer larger than 0", value))
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            problems.add(expected(f"data.{name}_fraction", "at least 0 and less than 1", fraction))
    problems.raise_if_any()


def _toyfaces(
    target: str,
    attributes: list[str],
    size: int | None,
    seed: int,
    fractions: dict[str, float],
    derive: Mapping[str, DerivedColumn],
    options: dict[str, Any],
) -> AttributeDataset:
    """Draw faces; ``options`` are ``n`` and ``correlation``."""
    from efface.data.toyfaces import load_toyfaces

    valid = ("n", "correlation")
    problems = Problems(DataError)
    if derive:
        problems.add(expected("data.derive", "empty for toyfaces, whose columns are drawn", sorted(derive)))
    for option in options:
        if option not in valid:
            problems.add(f"Unknown option {option!r} of toyfaces. {did_you_mean(option, valid)}")
    problems.raise_if_any()
    if size is not None:
        options = {**options, "size": size}
    validation, test = fractions["validation"], fractions["test"]
    return load_toyfaces(target, attributes, seed=seed, validation_fraction=validation, test_fraction=test, **options)


def _path(cache: str | Path | None) -> Path | None:
    return None if cache is None else Path(cache)
