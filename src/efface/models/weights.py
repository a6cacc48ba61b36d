"""Trained weights from a file into a model, refused as a whole if anything does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from efface.errors import ConfigError, expected

SHOWN = 5
"""Names and shapes that a message lists of each kind."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a model in place.

    Args:
        model: Its keys and shapes must be those of the file.
        path: ``.safetensors``, or a file of ``torch.save`` with a state dict or ``{"state_dict": …}``. Only tensors
            are read: no code in the file runs.

    Raises:
        ConfigError: The file can't be read, or lists all keys that are missing, unexpected or of another shape.
    """
    path = Path(path)
    state = read_state(path)
    own = model.state_dict()
    found = [
        f"{what} {_listed(keys)}"
        for what, keys in (("missing:", own.keys() - state.keys()), ("unexpected:", state.keys() - own.keys()))
        if keys
    ]
    others = [key for key in own if key in state and own[key].shape != state[key].shape]
    found += [
        f"shape of {key}: {list(state[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in others[:SHOWN]
    ]
    found += [f"shapes of {len(others) - SHOWN} more"] if len(others) > SHOWN else []
    if found:
        hint = "Check `model.name`, `model.stem`, `model.options` and the number of classes."
        head = f"The weights {str(path)!r} don't fit {type(model).__name__}. {hint}"
        raise ConfigError("\n  ".join([head, *found]))
    model.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict; see ``load_weights``."""
    if not path.is_file():
        raise ConfigError(expected("weights", "a .safetensors or .pt file", str(path), "There is no such file."))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        why = "it is no file of torch.save, or holds more than tensors, which is not read"
        raise ConfigError(
            f"Cannot read the weights {str(path)!r}: {why}. Give a state dict (.safetensors, .pt)."
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, _safetensors_error()) as error:
        reason = str(error).strip().splitlines()[:1]
        raise ConfigError(f"Cannot read the weights {str(path)!r}: {' '.join(reason)}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(expected("weights", "a state dict, {name: tensor}", type(loaded).__name__, f"File: {path}."))
    return dict(loaded)


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    error: type[Exception] = SafetensorError
    return error


def _listed(keys: set[str], limit: int = SHOWN) -> str:
    """The first few names, sorted, and how many more."""
    names = sorted(keys)
    return ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")
