"""Put a layer at the cut into a model, find it, and rebuild it from a state dict.

The layer becomes a child, ``release``, of the module that is cut after. The model's own keys stay as they are; what is
new is called ``LAYER.release.…``. Code that reads the module's attributes goes on working.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from efface.errors import CheckpointError, ConfigError, CutError, did_you_mean
from efface.heads.eraser import AffineEraser, ChannelProjection
from efface.heads.narrow import NarrowPassage
from efface.heads.quantiser import Quantiser, TaskBottleneck
from efface.heads.release import Release, unpack

CHILD = "release"
"""Name of the layer in the module after which the model is cut."""
KINDS: dict[str, type[Release]] = {
    kind.kind: kind for kind in (AffineEraser, ChannelProjection, NarrowPassage, Quantiser, TaskBottleneck)
}


def mount(model: nn.Module, at: str, layer: Release) -> None:
    """Let the module named ``at`` return what ``layer`` makes of its output, from now on.

    A plain ``nn.Sequential`` gets the layer as its last element. Any other module changes its class to a subclass that
    calls the layer after its own forward, as ``torch.nn.utils.parametrize`` does.

    Raises:
        ConfigError: There is such a layer already, or something else of that name.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> mount(model, "1", ChannelProjection(shape=(3,)))
        >>> [key for key in model.state_dict() if "release" in key]
        ['1.release.spec', '1.release.matrix']
        >>> model(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """
    module = model.get_submodule(at)
    if hasattr(module, CHILD):
        kept = isinstance(getattr(module, CHILD), Release)
        why = "has a layer of an earlier unlearning" if kept else f"has a member named {CHILD!r} of its own"
        raise ConfigError(f"`{at}` {why}. Start from a model without it, or cut at another layer.")
    tensor = next(iter(module.parameters()), None)
    tensor = tensor if tensor is not None else next(iter(model.parameters()), None)
    module.add_module(CHILD, layer.to(tensor.device) if tensor is not None else layer)
    layer.train(module.training)
    if type(module).forward is not nn.Sequential.forward:
        module.__class__ = cast(Any, _releasing)(type(module))


def unmount(model: nn.Module, at: str) -> None:
    """Take the layer out again."""
    module = model.get_submodule(at)
    del module._modules[CHILD]
    if kind := getattr(type(module), "_released_kind", None):
        module.__class__ = kind


def mount_checked(model: nn.Module, at: str, layer: Release, before: Tensor, after: Any) -> None:
    """Mount a layer and check that it is called once, on the module's own output.

    Args:
        model: The model.
        at: Name of the module.
        layer: The layer.
        before: The module's output on an example, in evaluation mode.
        after: Called without arguments, returns the output with the layer in place.

    Raises:
        CutError: The module does something else with a new child.
    """
    mount(model, at, layer)
    layer.eval()
    with torch.no_grad():
        wanted = layer(before)
        try:
            found = after()
        except Exception as error:  # The module's own code met a child that it does not know.
            unmount(model, at)
            raise CutError(_refusal(at)) from error
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=1e-3, atol=1e-4):
        unmount(model, at)
        raise CutError(_refusal(at))
    layer.train(model.get_submodule(at).training)


def _refusal(at: str) -> str:
    return f"`{at}` can't take a layer on top: its code runs through its children. Cut one layer further up or down."


def mounted(model: nn.Module, at: str) -> Release | None:
    """Return the layer at the cut, or None where there is none."""
    layer = getattr(model.get_submodule(at), CHILD, None)
    return layer if isinstance(layer, Release) else None


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load a state dict into a model of the original architecture, with the layers at the cut that the state has.

    For a state without such layers it is ``model.load_state_dict(state)``. Layers that the model has already are kept.

    Args:
        model: Freshly built, as the original was.
        state: Of the unlearned model, e.g. from ``model.safetensors``.

    Returns:
        The same model.

    Raises:
        CheckpointError: A layer's description is damaged or of an unknown kind.
        RuntimeError: Keys or shapes don't fit, as from ``load_state_dict``.
    """
    ending = f".{CHILD}.spec"
    for key in [key for key in state if key.endswith(ending)]:
        at = key.removesuffix(ending)
        if at in dict(model.named_modules()) and mounted(model, at) is None:
            mount(model, at, build_release(state[key]))
    model.load_state_dict(dict(state))
    return model


def build_release(spec: Tensor) -> Release:
    """Return a layer of the kind and sizes that a ``spec`` tensor describes, with fresh values.

    Raises:
        CheckpointError: The description is damaged, or of a kind that this version does not know.
    """
    made_from = unpack(spec)
    kind = str(made_from.pop("kind"))
    if kind not in KINDS:
        raise CheckpointError(f"The state has a layer of kind {kind!r} at the cut. {did_you_mean(kind, KINDS)}")
    try:
        return cast(Any, KINDS[kind])(**made_from)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"Cannot rebuild the layer {kind!r} at the cut: {error}") from None


@cache
def _releasing(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose output goes through the layer."""

    class Releasing(kind):  # type: ignore[misc, valid-type]
        _released_kind = kind

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, CHILD)(super().forward(*args, **kwargs))

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class is made here and has no place of its own to be imported from.
            made = super().__reduce_ex__(protocol)
            return (_revive, (kind,), *made[2:])

    Releasing.__name__ = Releasing.__qualname__ = f"Releasing{kind.__name__}"
    return Releasing


def _revive(kind: type[nn.Module]) -> nn.Module:
    """Return an empty module of the releasing subclass, for copying and pickling."""
    releasing: type[nn.Module] = cast(Any, _releasing)(kind)
    return releasing.__new__(releasing)


__all__ = ["CHILD", "KINDS", "build_release", "mount", "mount_checked", "mounted", "restore", "unmount"]
