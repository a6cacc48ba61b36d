"""Presets: named configurations that ship with the package, and users' own YAML files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from efface.config import Config, MethodConfig, override, read_yaml
from efface.errors import ConfigError, did_you_mean
from efface.methods import METHODS, find_method


def presets() -> dict[str, str]:
    """Return the presets' names and descriptions."""
    files = sorted(resources.files("efface.experiments").joinpath("presets").iterdir(), key=lambda f: f.name)
    texts = {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in files if file.name.endswith(".yaml")}
    return {name: yaml.safe_load(text).get("description", "") for name, text in texts.items()}


def find_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Return a preset by name, or the configuration in a YAML file, with overrides applied.

    Where file and overrides name a method and leave its settings open, they are those that suit it (``suited``).

    Raises:
        ConfigError: There is neither, or a setting is wrong.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"No configuration file {name!r}. Presets: {', '.join(presets())}.")
        return _read(path, overrides)
    if name not in presets():
        raise ConfigError(f"Unknown preset {name!r}. {did_you_mean(name, presets())} Or give a .yaml file.")
    with resources.as_file(resources.files("efface.experiments").joinpath(f"presets/{name}.yaml")) as file:
        return _read(file, overrides)


def suited(settings: Mapping[str, Any], name: str, others: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return settings of a method, with what suits it: under those that were made for it, over another method's.

    Of another method's settings, those that suit that method are dropped, and columns to keep where this one can't.

    Args:
        settings: Of the section ``method``, all or some.
        name: The method that is to be run.
        others: Of the section ``other_methods``: over ``settings`` where they are another method's.

    Example:
        >>> suited({"name": "detachment", "removal_weight": 8.0, "variant": "conditional"}, "hsic")["removal_weight"]
        4.0
        >>> suited({"name": "hsic", "removal_weight": 8.0}, "hsic")["removal_weight"]
        8.0
        >>> suited({"name": "quantised", "removal_weight": 48.0, "keep": "features"}, "narrow")
        {'name': 'narrow', 'keep': 'features'}
        >>> suited({"name": "quantised", "removal_weight": 48.0}, "narrow", {"removal_weight": 16.0})
        {'name': 'narrow', 'removal_weight': 16.0}
    """
    method, own = find_method(name), settings.get("name", MethodConfig().name)
    if own == name:
        return {**merged(method.suggested, settings), "name": name}
    theirs = find_method(own).suggested if own in METHODS.names() else {}
    left = _without(settings, theirs)
    found = {**merged(merged(left, others), method.suggested), "name": name}
    if not method.preserves:
        found.pop("preserve", None)
    return found


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings over others, section by section.

    Example:
        >>> merged({"code": {"levels": [2, 2], "width": 64}}, {"code": {"levels": [4]}})
        {'code': {'levels': [4], 'width': 64}}
    """
    found = dict(under)
    for name, value in over.items():
        below = found.get(name)
        found[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found


def _without(settings: Mapping[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings but those that others name, section by section."""
    sections = {name for name, value in left_out.items() if isinstance(value, Mapping)}
    return {
        name: _without(value, left_out[name]) if name in sections and isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name in sections or name not in left_out
    }


def _read(path: Path, overrides: Iterable[str]) -> Config:
    values, overrides = read_yaml(path), list(overrides)
    Config.from_mapping(override(values, overrides))  # what is wrong is told of what was written
    own, asked = values.get("method"), override(values, overrides)
    own = own if isinstance(own, dict) else {}  # what stands there is replaced by overrides
    name, others = asked.get("method", {}).get("name", MethodConfig().name), asked.get("other_methods", {})
    if name in METHODS.names():
        values = {**values, "method": suited(own, name, others)}
    found = override(values, overrides)
    if name in METHODS.names() and any(text.partition("=")[0].strip() == "method" for text in overrides):
        found["method"] = suited(found["method"], name)
    if name != own.get("name", MethodConfig().name):
        found.pop("other_methods", None)  # they are in ``method`` now
    return Config.from_mapping(found)
