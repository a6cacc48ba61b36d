"""Convolutions on small maps as matrix products: on CPUs, in bfloat16.

oneDNN's bfloat16 convolutions are slow where a map has few positions and many channels, as the last layers of a ResNet
have: on a processor with AMX a training step of 512 channels at 4×4 takes twice what the same products take as one
matrix product, at 2×2 ten times (docs/scaling.md). The values are the same but for the rounding of bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

POSITIONS = 16
"""Most positions of the output that count as a small map."""

CHANNELS = 128
"""Fewest input channels for which it pays."""

Pair = tuple[int, ...]


@contextmanager
def small_maps_as_products(*modules: nn.Module | None) -> Iterator[None]:
    """Let the modules' convolutions compute small maps as matrix products, where that is faster: until the end.

    Parameters, state_dict and copies of the modules are as ever; only training under CPU autocast to bfloat16 changes.

    Example:
        >>> layer = nn.Conv2d(128, 128, 3, padding=1)
        >>> with small_maps_as_products(layer), torch.autocast("cpu", torch.bfloat16):
        ...     layer(torch.zeros(2, 128, 4, 4)).shape
        torch.Size([2, 128, 4, 4])
    """
    with ExitStack() as stack:
        for module in modules:
            for layer in module.modules() if module is not None else ():
                # A subclass may compute something else.
                if type(layer) is nn.Conv2d and layer.in_channels >= CHANNELS and (own := _own_forward(layer)):
                    layer.__dict__["_conv_forward"] = own
                    stack.callback(layer.__dict__.pop, "_conv_forward", None)
        yield


def _own_forward(layer: nn.Conv2d) -> Callable[..., Tensor] | None:
    """Return what computes this layer; None where it is not of the kind that ``Product`` knows."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    # Of the layer's numbers, not of the layer: a copy of it, or a pickled one, has weights of its own.
    return partial(_convolve, stride=layer.stride, padding=layer.padding)


def _convolve(inputs: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Pair, padding: Pair) -> Tensor:
    """Compute a convolution, as a matrix product where that is faster."""
    if not _pays(inputs, weight, stride, padding):
        return F.conv2d(inputs, weight, bias, stride, padding)
    maps: Tensor = Product.apply(inputs.to(torch.bfloat16), weight.to(torch.bfloat16), stride, padding)
    return maps if bias is None else maps + bias.to(torch.bfloat16)[:, None, None]


def _pays(inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> bool:
    if inputs.device.type != "cpu" or inputs.dim() != 4 or not torch.is_grad_enabled():
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    height, width = _positions(inputs.shape[2:], weight.shape[2:], stride, padding)
    return 0 < height * width <= POSITIONS


def _positions(size: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Pair) -> tuple[int, int]:
    height, width = ((size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return height, width


class Product(Function):
    """A convolution of bfloat16 maps, zeros around them: every patch is a row, the weight a matrix."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        """Keep the rows: to make them again costs more than to hold them."""
        height, width = _positions(inputs.shape[2:], weight.shape[2:], stride, padding)
        around = F.pad(inputs.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
        patches = [around[place] for place in _places(weight.shape[2:], stride, (height, width))]
        rows = torch.cat(patches, 3).flatten(0, 2)
        ctx.save_for_backward(rows, weight)
        ctx.geometry = (tuple(inputs.shape), stride, padding, (height, width))
        return (rows @ _matrix(weight).T).view(len(inputs), height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of maps and weight, of each only if it is wanted: a frozen head's weight has none."""
        rows, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        shape, stride, padding, positions = ctx.geometry  # type: ignore[attr-defined]
        out, channels, *kernel = weight.shape
        given = grads[0].permute(0, 2, 3, 1).reshape(-1, out)
        for_weight = None
        maps_wanted, weight_wanted, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        if weight_wanted:
            for_weight = (given.T @ rows).view(out, *kernel, channels).permute(0, 3, 1, 2)
        if not maps_wanted:
            return None, for_weight, None, None
        parts = (given @ _matrix(weight)).view(shape[0], *positions, kernel[0] * kernel[1], channels)
        top, left = padding
        # Summed in float32: up to nine parts meet in a place.
        around = parts.new_zeros(shape[0], shape[2] + 2 * top, shape[3] + 2 * left, channels, dtype=torch.float32)
        for number, place in enumerate(_places(kernel, stride, positions)):
            around[place] += parts[:, :, :, number]
        inner = around[:, top : top + shape[2], left : left + shape[3]]
        return inner.permute(0, 3, 1, 2).to(weight.dtype), for_weight, None, None


def _matrix(weight: Tensor) -> Tensor:
    """Return the weight as ``[out, kh · kw · in]``: no copy if it is stored channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _places(kernel: Sequence[int], stride: Pair, positions: Pair) -> Iterator[tuple[slice, ...]]:
    """Yield, for each place of the kernel, where it meets the padded maps."""
    spans = [(stride[i] * (positions[i] - 1) + 1, stride[i]) for i in (0, 1)]
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            yield (
                slice(None),
                *(slice(at, at + span, step) for at, (span, step) in zip((row, column), spans, strict=True)),
            )


__all__ = ["small_maps_as_products"]
