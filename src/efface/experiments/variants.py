"""Variants: methods with settings of their own, set side by side in one comparison under names of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.config import Config, read_yaml
from efface.errors import ConfigError, Problems, did_you_mean, expected
from efface.experiments.cells import ORIGINAL
from efface.experiments.presets import merged, suited
from efface.methods import METHODS

ALL = "all"
Variants = Mapping[str, Mapping[str, Any]]
"""Settings of ``method`` by the variants' names; ``name`` among them is the method, else the preset's."""


def read_variants(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read variants from a YAML file: ``{sixteen: {name: narrow, narrow: {channels: 16}}}``.

    Raises:
        ConfigError: The file can't be read; or a variant's name or method is wrong; all problems at once.
    """
    found, problems = read_yaml(path), Problems(ConfigError)
    if not found:
        problems.add(expected(str(path), "a YAML mapping of variants", found))
    for name, settings in found.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            problems.add(expected(f"{path}: a variant's name", "letters, digits and . + - _, to name a folder", name))
        elif name in (*METHODS.names(), ALL):
            what = "every method" if name == ALL else "a method"
            problems.add(f"{path}: {name!r} is {what}: give the variant a name of its own.")
        if not isinstance(settings, dict):
            problems.add(expected(f"{path}: {name}", "a mapping of settings of `method`", settings))
        elif settings.get("name") == ORIGINAL:
            problems.add(f"{path}: {name}: the original is one for all; its settings are the preset's.")
        elif settings.get("name") is not None and settings["name"] not in METHODS.names():
            hint = did_you_mean(str(settings["name"]), METHODS.names())
            problems.add(f"{path}: {name}: unknown method {settings['name']!r}. {hint}")
    problems.raise_if_any()
    return found


def chosen(methods: str | Sequence[str], variants: Variants) -> tuple[str, ...]:
    """Return which methods and variants are made, the original first, each once.

    Args:
        methods: Names separated by commas, or in a list; ``all`` for every method and every variant.
        variants: Known beside the methods.

    Raises:
        ConfigError: Names are unknown, or there is none; all at once.

    Example:
        >>> chosen("leace, original,mine,leace", {"mine": {}})
        ('original', 'leace', 'mine')
    """
    known = [*METHODS.names(), *variants]
    given = known if methods == ALL else methods
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    names = list(dict.fromkeys(name for name in names if name))
    problems = Problems(ConfigError)
    if not names:
        problems.add(expected("--methods", "at least one name, or all", methods, did_you_mean("", known)))
    for name in set(names) - set(known):
        problems.add(f"Unknown method {name!r} in --methods. {did_you_mean(name, known)}")
    problems.raise_if_any()
    return tuple(sorted(names, key=lambda name: name != ORIGINAL))


def settled(config: Config, name: str, variants: Variants) -> Config:
    """Return the configuration of a method or variant: the preset's, what suits the method, what the variant says.

    Raises:
        ConfigError: The variant has settings that don't exist or don't fit.
    """
    own = variants.get(name, {"name": name})
    values = config.model_dump()
    method = own.get("name") or config.method.name
    values["method"] = merged(suited(values["method"], method, values["other_methods"]), own)
    if method != config.method.name:
        del values["other_methods"]  # they are in ``method`` now
    return Config.from_mapping(values | {"name": name})


__all__ = ["ALL", "Variants", "chosen", "read_variants", "settled"]
