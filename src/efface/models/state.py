"""Looking at a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from efface.errors import CutError, EffaceError


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Give back the mode of every submodule, the values of the buffers and the random number generators.

    Example:
        >>> norm = nn.BatchNorm1d(2).train()
        >>> with undisturbed(norm):
        ...     _ = norm(torch.randn(8, 2))
        >>> int(norm.num_batches_tracked), norm.training
        (0, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.detach().copy_(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and everything as it was afterwards."""
    with undisturbed(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def reading(images: torch.Tensor) -> Iterator[None]:
    """Tell clearly where a model can't read these images: of another size, number of channels or type.

    Models say so in many ways: timm's of one size by an assertion.

    Raises:
        CutError: With PyTorch's own reason.
    """
    try:
        yield
    except EffaceError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CutError(f"The model can't read images {list(images.shape)} ({images.dtype}): {reason}") from error


def _cuda_devices(model: nn.Module) -> list[int]:
    """CUDA devices that hold a part of the model."""
    tensors = [*model.parameters(), *model.buffers()]
    return sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
