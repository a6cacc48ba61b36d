"""Models by name: timm, torchvision, or the user's own function."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch import nn

from efface.errors import ConfigError, did_you_mean, expected
from efface.models.stems import narrow, shrink_stem, takes_small_stem, takes_width
from efface.models.weights import load_weights

SMALL_IMAGES = 40
"""Up to so many pixels, ``stem="auto"`` picks the small stem."""

NARROWEST = 8
"""Base channels of a ResNet at least: torch 2.12 writes past its memory on CPU in the backward pass of a strided 1×1
convolution with 4 input channels in channels_last."""


def list_models() -> list[str]:
    """Return timm's names, then torchvision's classifiers as ``torchvision/NAME``."""
    return [*_timm_names(), *(f"torchvision/{name}" for name in _torchvision_names())]


def build(
    name: str,
    num_classes: int,
    image_size: int,
    stem: Literal["auto", "small", "standard"] = "auto",
    weights: Path | None = None,
    **options: Any,
) -> nn.Module:
    """Return a model with fresh weights, or with those of a file.

    Fresh weights depend on ``torch.manual_seed`` alone; no pretrained weights are downloaded.

    Args:
        name: A timm name (tags are ignored), a torchvision one (``torchvision/NAME`` where both have it), or
            ``module:function`` of your own, called with ``num_classes`` and the options.
        num_classes: Outputs, Y.
        image_size: Pixels a side; given to models that are made for one size, and picks the stem.
        stem: ``small`` turns the first convolution of a ResNet into 3×3 with stride 1 and drops the pooling after it,
            which 32×32 images need; ``auto`` does so up to 40 pixels where it can.
        weights: ``.safetensors`` or ``.pt`` of this very model.
        **options: Passed to the model's constructor. ``width`` sets the base channels of timm's ResNets (64; 16 or 32
            for small CPU runs; at least 8).

    Raises:
        ConfigError: Unknown name, options the constructor refuses, a stem the model does not have, or weights that
            don't fit.

    Example:
        >>> model = build("resnet18", num_classes=2, image_size=32, width=16)
        >>> model.conv1.stride, model.num_features
        ((1, 1), 128)
    """
    if ":" in name:
        model = _from_function(name, num_classes, options)
    elif name.split(".")[0] in _timm_names():
        model = _from_timm(name, num_classes, image_size, options)
    elif name.removeprefix("torchvision/") in _torchvision_names():
        model = _from_torchvision(name.removeprefix("torchvision/"), num_classes, image_size, options)
    else:
        check_name(name)
    own = ":" in name  # "auto" changes no one's own model
    if stem == "small" or (stem == "auto" and not own and image_size <= SMALL_IMAGES and takes_small_stem(model)):
        shrink_stem(model, name)
    if weights is not None:
        load_weights(model, weights)
    return model


def check_name(name: str) -> None:
    """Refuse a name of which no model is known; of your own functions nothing is tried.

    Raises:
        ConfigError: With the nearest name.
    """
    known = name.split(".")[0] in _timm_names() or name.removeprefix("torchvision/") in _torchvision_names()
    if ":" not in name and not known:
        hint = f"{did_you_mean(name, list_models(), limit=5)} Try `efface ls models`."
        raise ConfigError(expected("model.name", "a timm or torchvision name, or module:function", name, hint))


@lru_cache
def _timm_names() -> tuple[str, ...]:
    import timm

    return tuple(timm.list_models())


@lru_cache
def _torchvision_names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _from_timm(name: str, num_classes: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    import timm

    settings: dict[str, Any] = {}
    usual = timm.get_pretrained_cfg(name.split(".")[0])
    if usual is not None and usual.fixed_input_size and usual.input_size[-1] != image_size:
        settings["img_size"] = image_size
    settings.update(options)
    width = settings.pop("width", None) if takes_width(name) else None
    if width is not None:
        if not isinstance(width, int) or width < NARROWEST:
            raise ConfigError(expected("model.options.width", f"an integer from {NARROWEST} on", width))
        settings["channels"] = tuple(width * factor for factor in (1, 2, 4, 8))
    model = _construct(name, timm.create_model, name, pretrained=False, num_classes=num_classes, **settings)
    return narrow(model, width) if width is not None else model


def _from_torchvision(name: str, num_classes: int, image_size: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    settings = {"image_size": image_size} if name.startswith("vit_") else {}
    settings.update(options)
    return _construct(name, models.get_model, name, weights=None, num_classes=num_classes, **settings)


def _from_function(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Call the user's ``module:function``."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # Importing runs the user's code.
        hint = "Is its folder on PYTHONPATH?" if isinstance(error, ImportError) else ""
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"Cannot import {module_name!r} for the model {name!r}: {reason}. {hint}".strip()) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = [key for key, _ in inspect.getmembers(module, callable) if not key.startswith("_")]
        raise ConfigError(f"No function {function_name!r} in {module_name!r}. {did_you_mean(function_name, found)}")
    model = _construct(name, function, num_classes=num_classes, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(expected("model.name", "a function that returns an nn.Module", name, f"It gave {model!r}."))
    return model


def _construct(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a constructor; whatever it raises becomes one readable error."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, TypeError):  # an argument that it does not take
            reason += ". A preset's `model.options` are for its own model: --set 'model.options={}' leaves them out."
        raise ConfigError(f"Cannot build the model {name!r} with {given}: {reason}") from error
