"""What one block hands to the next: features, labels and the state of the random numbers, in one flat buffer of bytes.

A buffer travels as it is: it lies in shared memory, or is sent by ``torch.distributed``. Features keep their strides,
for kernels may differ in the last bit between memory layouts; and the random numbers go on where the block before left
them, as they do where one process trains all blocks. So the weights are equal to the bit.
"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from efface.data.batches import Batch, Batches, normalised
from efface.engine.training import Training
from efface.errors import TrainingError
from efface.models.state import evaluating

HEAD = 32 * 1024
"""Bytes for the description of the tensors and the random state (about 13 KiB)."""
ALIGN = 64
"""Tensors begin at multiples of so many bytes, as torch's own do."""


@dataclass(frozen=True)
class Parcel:
    """A step's input of a block.

    Attributes:
        signal: Features of the block before it, or images for the first.
        batch: Images and labels.
        randomness: Where the random numbers stand; None: as they stand.
    """

    signal: Tensor
    batch: Batch
    randomness: bytes | None = None


class PassedBatch(Batch):
    """A batch that came from another process: images are made from its pixels when somebody asks."""

    def __init__(
        self,
        pixels: Tensor,
        target: Tensor,
        attributes: Mapping[str, Tensor],
        numbers: Mapping[str, Tensor] | None = None,
    ):
        given = {"pixels": pixels, "target": target, "attributes": attributes, "numbers": numbers or {}}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @cached_property
    def images(self) -> Tensor:
        """``[B, C, H, W]`` normalised, as ``Batches`` makes them."""
        return normalised(self.pixels)


def mapped(batch: Batch, function: Callable[[Tensor], Tensor]) -> PassedBatch:
    """Return a batch of what a function makes of each tensor; images are made from its pixels."""
    labels, numbers = ({name: function(t) for name, t in part.items()} for part in (batch.attributes, batch.numbers))
    return PassedBatch(function(batch.pixels), function(batch.target), labels, numbers)


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Yield what travels with a batch: pixels, target, labels and numbers, in the order of their names."""
    yield from (batch.pixels, batch.target, *batch.attributes.values(), *batch.numbers.values())


def random_state() -> bytes:
    """Return where torch's, numpy's and Python's generators stand."""
    states = torch.get_rng_state().numpy().tobytes(), np.random.get_state(), random.getstate()  # noqa: NPY002
    return pickle.dumps(states)


def set_random_state(state: bytes) -> None:
    """Put the generators where ``random_state`` found them."""
    first, second, third = pickle.loads(state)
    torch.set_rng_state(torch.frombuffer(bytearray(first), dtype=torch.uint8))
    np.random.set_state(second)  # noqa: NPY002
    random.setstate(third)


def buffer_size(features: Tensor, batch: Batch, images: int) -> int:
    """Return the bytes that a parcel of so many images needs; features are taken for float32 if they are narrower.

    Args:
        features: Of the images in ``batch``.
        batch: A few images.
        images: How many the parcel will have.

    Example:
        >>> batch = PassedBatch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), {})
        >>> buffer_size(torch.zeros(2, 10), batch, images=128) - HEAD == 128 * (4 * 10 + 3 * 8 * 8 + 8)
        True
    """
    sizes = [features.numel() * max(4, features.element_size())]
    sizes += [t.numel() * t.element_size() for t in tensors_of(batch)]
    return HEAD + sum(_padded(math.ceil(size / len(batch)) * images) for size in sizes)


def buffer_sizes(training: Training) -> list[int]:
    """Return the bytes of a parcel at each boundary, by a dry run of two images that leaves the blocks as they are."""
    images, device = training.batches.batch_size, training.fabric.device
    batch = next(iter(Batches(training.batches.dataset, "train", 2, device).sequential()))
    signal, sizes = batch.images, []
    for stage in training.stages[:-1]:
        with evaluating(stage.part.block), training.fabric.autocast():
            signal = stage.part.block(signal)
        sizes.append(buffer_size(signal, batch, images))
    return sizes


def pack(parcel: Parcel, buffer: Tensor) -> None:
    """Write a parcel into a flat uint8 buffer.

    Raises:
        TrainingError: The buffer is too small: the features have another shape than in the dry run.
    """
    batch, offset, fields = parcel.batch, HEAD, []
    for tensor in (parcel.signal, *tensors_of(batch)):
        extent = _extent(tensor)
        if extent != tensor.numel():  # a view with gaps, or one that shows the same numbers several times
            tensor = tensor.contiguous()
            extent = tensor.numel()
        end = offset + extent * tensor.element_size()
        if end > len(buffer):
            raise TrainingError(
                f"A block gave {tuple(tensor.shape)} {tensor.dtype}, which is more than it gave in the dry run. "
                "Try `engine.schedule=local`."
            )
        fields.append((tensor.dtype, tuple(tensor.shape), tensor.stride(), offset, end))
        buffer[offset:end].view(tensor.dtype).as_strided(tensor.shape, tensor.stride()).copy_(tensor.detach())
        offset = _padded(end)
    head = pickle.dumps((fields, tuple(batch.attributes), tuple(batch.numbers), parcel.randomness))
    assert len(head) + 8 <= HEAD
    written = len(head).to_bytes(8, "little") + head
    buffer[: len(written)].copy_(torch.frombuffer(bytearray(written), dtype=torch.uint8))


def unpack(buffer: Tensor) -> Parcel:
    """Return the parcel in a buffer; its tensors are views of the buffer."""
    front = buffer[:HEAD].cpu().numpy().tobytes()
    fields, labelled, numbered, randomness = pickle.loads(front[8 : 8 + int.from_bytes(front[:8], "little")])
    tensors = [buffer[start:end].view(dtype).as_strided(shape, stride) for dtype, shape, stride, start, end in fields]
    signal, pixels, target, *others = tensors
    labels = dict(zip(labelled, others[: len(labelled)], strict=True))
    numbers = dict(zip(numbered, others[len(labelled) :], strict=True))
    return Parcel(signal, PassedBatch(pixels, target, labels, numbers), randomness)


def _extent(tensor: Tensor) -> int:
    """Number of elements from a tensor's first to its last in memory."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _padded(size: int) -> int:
    return math.ceil(size / ALIGN) * ALIGN
