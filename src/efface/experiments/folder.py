"""The run folder: a public contract. What is in it, what may be overwritten, and what resumes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efface.config import Config
from efface.errors import CheckpointError, ConfigError, expected

OWN = ("config.yaml", "environment.json", "metrics.jsonl", "audit.json", "report.html", "README.md")


def _refuse_others(saved: Path) -> None:
    """Raise ConfigError for a config.yaml that is somebody else's: never offer to overwrite it."""
    try:
        Config.from_yaml(saved)
    except ConfigError:
        where = str(saved.parent)
        raise ConfigError(f"{where!r} holds a config.yaml of something else. Name another folder with --out.") from None


def refuse_runs(path: Path) -> None:
    """Raise ConfigError for a folder that holds a run or an audit: nothing else is written there."""
    if (path / "audit.json").exists() or (path / "model.safetensors").exists():
        raise ConfigError(f"{str(path)!r} holds a run or an audit. Name another folder with --out.")


class RunFolder:
    """Paths and files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def default(cls, name: str, resume: bool, root: Path = Path("runs")) -> RunFolder:
        """Return ``runs/NAME``, numbered if taken; to resume, the last of them that exists."""
        number, last = 1, root / name
        while (candidate := root / (name if number == 1 else f"{name}-{number}")).exists():
            number, last = number + 1, candidate
        return cls(last if resume else candidate)

    def check(self, config: Config, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that would lose something that was not given up; write nothing.

        Raises:
            ConfigError: The folder holds another run, or other files.
        """
        path, saved = self.path, self.path / "config.yaml"
        if path.exists() and not path.is_dir():
            raise ConfigError(expected("--out", "a folder", str(path)))
        if saved.exists():
            _refuse_others(saved)
            if not (resume or overwrite):
                raise ConfigError(
                    f"{str(path)!r} already holds a run. Go on with --resume, replace it with --overwrite, "
                    "or name another folder with --out."
                )
            if resume and (before := Config.from_yaml(saved)).fingerprint() != config.fingerprint():
                raise ConfigError(
                    f"{str(path)!r} was begun with other settings: {'; '.join(differences(before, config)[:8])}. "
                    "Give the same settings to --resume, or name another folder with --out."
                )
        elif path.exists() and any(path.iterdir()):
            raise ConfigError(f"{str(path)!r} is not empty and holds no run. Name another folder with --out.")

    def begin(self, config: Config, resume: bool, overwrite: bool) -> None:
        """Check the folder, make it ready and write config.yaml."""
        self.check(config, resume, overwrite)
        self.make()
        if overwrite and not resume:
            self._clear()
        (self.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")

    def make(self) -> None:
        """Make the folder, and see that it can be written.

        Raises:
            ConfigError: It can't.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ConfigError(f"Cannot write {str(self.path)!r}: {error}. Name another folder with --out.") from None

    def _clear(self) -> None:
        names = (*OWN, "reconstructions.npz", "original.safetensors", "model.safetensors")
        for path in (*(self.path / name for name in names), *(self.path / "checkpoints").glob("*.pt")):
            path.unlink(missing_ok=True)

    def config(self) -> Config:
        """Return the configuration of a run.

        Raises:
            CheckpointError: The folder holds no run.
        """
        saved = self.path / "config.yaml"
        if not saved.exists():
            raise CheckpointError(f"{str(self.path)!r} holds no run (no config.yaml). Make one with `efface run`.")
        return Config.from_yaml(saved)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all."""
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        partial = self.path / f".{name}.tmp"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path / name)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's content, {} where there is none or it is damaged."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def save_pictures(self, pictures: Any) -> None:
        """Write reconstructions.npz."""
        if pictures is not None:
            arrays: dict[str, Any] = {name: np.asarray(value) for name, value in pictures.items()}
            np.savez_compressed(self.path / "reconstructions.npz", **arrays)

    def save_weights(self, name: str, model: nn.Module) -> None:
        """Write ``NAME.safetensors`` with the model's own keys."""
        state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        partial = self.path / f".{name}.tmp"
        save_file(state, partial)
        partial.replace(self.path / f"{name}.safetensors")

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of ``NAME.safetensors``.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        path = self.path / f"{name}.safetensors"
        if not path.exists():
            raise CheckpointError(
                f"No {path.name} in {str(self.path)!r}: the run is not finished. Go on with `efface run … --resume`."
            )
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"Cannot read {str(path)!r}: {error}.") from None


def differences(old: Config, new: Config) -> list[str]:
    """Return the settings that differ, with both values.

    Example:
        >>> differences(Config(), Config(seed=1))
        ['seed 0 there, 1 here']
    """
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = []
    for section, values in before.items():
        if not isinstance(values, dict):
            values, other = {"": values}, {"": after[section]}
        else:
            other = after[section]
        found += [
            f"{section}.{name}".rstrip(".") + f" {value!r} there, {other.get(name)!r} here"
            for name, value in values.items()
            if other.get(name) != value
        ]
    return found
