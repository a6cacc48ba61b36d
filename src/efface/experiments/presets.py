"""Presets: named configurations that ship with the package, and users' own YAML files."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import yaml

from efface.config import Config
from efface.errors import ConfigError, did_you_mean


def presets() -> dict[str, str]:
    """Return the presets' names and descriptions."""
    files = sorted(resources.files("efface.experiments").joinpath("presets").iterdir(), key=lambda f: f.name)
    texts = {file.name.removesuffix(".yaml"): file.read_text("utf-8") for file in files if file.name.endswith(".yaml")}
    return {name: yaml.safe_load(text).get("description", "") for name, text in texts.items()}


def find_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Return a preset by name, or the configuration in a YAML file, with overrides applied.

    Raises:
        ConfigError: There is neither, or a setting is wrong.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"No configuration file {name!r}. Presets: {', '.join(presets())}.")
        return Config.from_yaml(path, overrides)
    if name not in presets():
        raise ConfigError(f"Unknown preset {name!r}. {did_you_mean(name, presets())} Or give a .yaml file.")
    with resources.as_file(resources.files("efface.experiments").joinpath(f"presets/{name}.yaml")) as file:
        return Config.from_yaml(file, overrides)
