"""Fresh weights for a model that has been trained."""

from __future__ import annotations

import copy

import torch
from torch import nn


def fresh_copy(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy with fresh weights; the model itself stays."""
    twin = copy.deepcopy(model)
    reset(twin, seed)
    return twin


def reset(model: nn.Module, seed: int) -> None:
    """Give a model fresh weights in place: every layer's own initialisation, then the model's, if it has one.

    Parameters that no layer initialises (a class token) keep their values.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> reset(layer, 0)
        >>> first = layer.weight.clone()
        >>> reset(layer, 1)
        >>> reset(layer, 0)
        >>> torch.equal(layer.weight, first)
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            renew = getattr(module, "reset_parameters", None)
            if callable(renew):
                renew()
        whole = getattr(model, "init_weights", None)  # timm's models refine what their layers begin with
        if callable(whole):
            whole()


__all__ = ["fresh_copy", "reset"]
