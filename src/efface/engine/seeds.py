"""Randomness as a function of (seed, step): a resumed run needs no stored generator to be equal to the bit."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *parts: int | str) -> int:
    """Return a 63-bit seed for one use, independent of other uses.

    Example:
        >>> derive(0, "step", 1) == derive(0, "step", 1) != derive(0, "step", 2)
        True
    """
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_everything(seed: int, *parts: int | str) -> None:
    """Seed torch, numpy's legacy generator and random."""
    value = derive(seed, *parts)
    torch.manual_seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - third-party code may draw from it
    random.seed(value)
