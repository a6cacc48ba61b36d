"""A ring of buffers in shared memory between two processes.

The memory is anonymous (no name in /dev/shm) and the semaphores are unlinked when made: whatever way a process ends,
nothing is left behind.
"""

from __future__ import annotations

import mmap
from multiprocessing.context import ForkContext

import torch

from efface.engine.parallel.parcels import Parcel, pack, unpack

DEPTH = 2
"""Parcels in a ring: one that is read and one that waits, so that neither side stands still for a moment's delay."""


class Ring:
    """Parcels from one process to the next, first in, first out; made before the processes are forked.

    Args:
        context: Of the processes.
        size: Bytes of a parcel.
        depth: Buffers.
    """

    def __init__(self, context: ForkContext, size: int, depth: int = DEPTH):
        memory = mmap.mmap(-1, size * depth)
        self._slots = torch.frombuffer(memory, dtype=torch.uint8).view(depth, size)
        self._free, self._full = context.Semaphore(depth), context.Semaphore(0)
        self._written = self._read = 0

    def put(self, parcel: Parcel) -> None:
        """Copy a parcel into the next free buffer; wait for one if all are in use."""
        self._free.acquire()
        pack(parcel, self._slots[self._written % len(self._slots)])
        self._written += 1
        self._full.release()

    def get(self) -> Parcel:
        """Return the next parcel, which lies in its buffer until ``release``; wait for it if need be."""
        self._full.acquire()
        parcel = unpack(self._slots[self._read % len(self._slots)])
        self._read += 1
        return parcel

    def release(self) -> None:
        """Give the buffer of the last parcel back."""
        self._free.release()
