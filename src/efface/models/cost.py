"""What a module costs: parameters, and floating-point operations of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from efface.models.state import evaluating


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Return the number of parameters, each shared one counted once.

    Args:
        module: What is counted.
        trainable: Whether those that get a gradient count alone.

    Example:
        >>> count_parameters(nn.Linear(3, 2)), count_parameters(nn.Linear(3, 2).requires_grad_(False), trainable=True)
        (8, 0)
    """
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not trainable)


def count_flops(module: nn.Module, *example_inputs: Tensor) -> int:
    """Return the floating-point operations of one forward pass in evaluation mode.

    A multiplication with its addition counts as two. Convolutions and matrix products are counted, attention
    included; element-wise operations are not, as in the literature. The module is left as it was.

    Args:
        module: What is measured.
        *example_inputs: Its inputs; the count grows with their batch size.

    Example:
        >>> count_flops(nn.Linear(3, 2), torch.zeros(5, 3))
        60
    """
    with evaluating(module), counting() as counter:
        module(*example_inputs)
    return int(counter.get_total_flops())


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count operations, with attention written out as matrix products: its fused CPU kernels count as zero."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
