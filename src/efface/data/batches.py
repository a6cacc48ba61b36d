"""Batches: rows gathered as uint8, moved to the device, augmented there as a whole, then made floats.

Everything random is a pure function of (seed, epoch, step), so that a resumed run sees the same pixels to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from efface.data.dataset import AttributeDataset
from efface.errors import DataError, expected
from efface.shapes import Images, Labels, RawImages

MEAN, STD = 0.5, 0.25
"""Constants of the normalisation: images = (raw01 - MEAN) / STD, in -2 to 2, for every channel and data set."""
PREFETCH = 2
"""Batches gathered ahead by the background thread."""


@dataclass(frozen=True)
class Batch:
    """Images with their labels, on one device.

    Attributes:
        images: ``[B, C, H, W]`` normalised, ``(raw01 - 0.5) / 0.25``; augmented in training.
        pixels: ``[B, C, H, W]`` uint8, the same images as 0 to 255.
        target: ``[B]`` class indices of the main task.
        attributes: ``{name: [B]}`` class indices, -1 where missing; of the columns to unlearn and to preserve.
        numbers: ``{name: [B]}`` float32, NaN where missing; of the columns to unlearn whose classes are numbers, cut.
    """

    images: Images
    pixels: RawImages
    target: Labels
    attributes: Mapping[str, Labels]
    numbers: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict)

    @property
    def raw01(self) -> Float[Tensor, "B C H W"]:
        """The (augmented) images in [0, 1], float32: what a decoder reconstructs."""
        return self.pixels.float().div_(255)

    def __len__(self) -> int:
        return len(self.pixels)


def batch_indices(
    rows: Int[np.ndarray, " n"], batch_size: int, seed: int, epoch: int, drop_last: bool = True
) -> list[Int[np.ndarray, " b"]]:
    """Return the shuffled rows of an epoch, batch by batch: a pure function of its arguments.

    Args:
        rows: Row indices of the split.
        batch_size: Rows per batch.
        seed: Seed of the run.
        epoch: Number of the epoch; every epoch has its own order.
        drop_last: Leave out the last, smaller batch.

    Example:
        >>> [len(rows) for rows in batch_indices(np.arange(10), 4, seed=0, epoch=0, drop_last=False)]
        [4, 4, 2]
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    end = len(order) - len(order) % batch_size if drop_last else len(order)
    return [order[i : i + batch_size] for i in range(0, end, batch_size)]


def augmented(
    images: RawImages, flip: bool, shift: int, generator: torch.Generator, shard: tuple[int, int] = (0, 1)
) -> RawImages:
    """Mirror each image with probability ½ and shift it by up to ``shift`` pixels, whole batch at once.

    Pixels that a shift uncovers are reflections of the border. Draws happen on the CPU (three small vectors), so that
    every device gets the same augmentation; the pixels are moved by one gather on the images' own device.

    Args:
        images: ``[B, C, H, W]`` uint8.
        flip: Whether to mirror left and right.
        shift: Largest shift in pixels, on each axis; smaller than H and W.
        generator: On the CPU.
        shard: (number, count): these images are one of so many equal parts of the batch that is drawn for.
    """
    (b, c, h, w), device = images.shape, images.device
    mine = slice(shard[0] * b, (shard[0] + 1) * b)
    shifts = sent(torch.randint(-shift, shift + 1, (2, b * shard[1], 1), generator=generator)[:, mine], device)
    mirrored = sent((torch.rand((b * shard[1], 1), generator=generator) < (0.5 if flip else 0.0))[mine], device)
    ys = _reflected(torch.arange(h, device=device) + shifts[0], h)
    xs = _reflected(torch.arange(w, device=device) + shifts[1], w)
    xs = torch.where(mirrored, w - 1 - xs, xs)
    flat = (ys[:, :, None] * w + xs[:, None, :]).view(b, 1, h * w).expand(b, c, h * w)
    return images.reshape(b, c, h * w).gather(2, flat).view(b, c, h, w)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on a device; a GPU fetches them when their turn comes, the host does not wait for it."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def normalised(
    pixels: RawImages, dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.channels_last
) -> Images:
    """Return uint8 images as ``(raw01 - MEAN) / STD``."""
    floats = pixels.to(torch.float32, memory_format=memory_format)
    return floats.mul_(1 / (255 * STD)).sub_(MEAN / STD).to(dtype)


def _reflected(index: Int[Tensor, "B n"], size: int) -> Int[Tensor, "B n"]:
    """Fold indices outside 0 … size-1 back in, without repeating the border pixel."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


class Batches:
    """Batches of a split: shuffled and augmented by epoch, or in order and as they are.

    A thread gathers the next two batches from the memory map while the current one is computed on. It ends with the
    iterator: at its end, when the loop is left early, and on an exception.

    Args:
        dataset: Decoded data set.
        split: ``train``, ``validation`` or ``test``.
        batch_size: Images per batch.
        device: Where the batches are made.
        augment: ``(flip, shift in pixels)`` for ``epoch``; None: images as they are.
        seed: Of order and augmentation.
        dtype: Of ``Batch.images``.
        channels_last: Memory layout of ``Batch.images``, the faster one for convolutions.
        drop_last: Leave out an epoch's last, smaller batch (``sequential`` never does).
        shard: (number, count) of data-parallel processes: ``epoch`` yields this one's part of batches that are
            ``count`` times as large.

    Raises:
        DataError: Unknown split, a batch size below 1, or a shift as large as the images.
    """

    def __init__(
        self,
        dataset: AttributeDataset,
        split: str,
        batch_size: int,
        device: torch.device | str = "cpu",
        augment: tuple[bool, int] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
        drop_last: bool = True,
        shard: tuple[int, int] = (0, 1),
    ):
        self.dataset, self.rows = dataset, dataset.rows(split)
        self.batch_size, self.device, self.augment, self.seed = batch_size, torch.device(device), augment, seed
        self.dtype, self.drop_last, self.shard = dtype, drop_last or shard[1] > 1, shard
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if batch_size < 1:
            raise DataError(expected("batch_size", "an integer larger than 0", batch_size))
        smallest = min(dataset.image_shape[1:])
        if augment is not None and not 0 <= augment[1] < smallest:
            raise DataError(expected("data.shift", f"from 0 to {smallest - 1} for these images", augment[1]))
        schema = dataset.schema
        columns = [column.name for column in (schema.target, *schema.attributes, *schema.preserved)]
        self._labels = {name: torch.from_numpy(np.array(dataset.labels[name], np.int64)) for name in columns}
        named = [column.name for column in schema.attributes if column.name in dataset.numbers]
        self._numbers = {name: torch.from_numpy(np.array(dataset.numbers[name], np.float32)) for name in named}

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.rows), self.batch_size * self.shard[1])
        return full + bool(rest and not self.drop_last)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step ``start`` on.

        What step ``s`` yields depends on (seed, epoch, s) only, wherever the loop started.
        """
        whole = batch_indices(self.rows, self.batch_size * self.shard[1], self.seed, epoch, self.drop_last)[start:]
        first = self.shard[0] * self.batch_size
        order = (rows[first : first + self.batch_size] for rows in whole)
        with closing(self._gathered(order)) as gathered:
            for step, (rows, pixels) in enumerate(gathered, start):
                pixels = pixels.to(self.device, non_blocking=True)
                if self.augment is not None:
                    pixels = augmented(pixels, *self.augment, _generator(self.seed, epoch, step), self.shard)
                yield self._batch(rows, pixels)

    def sequential(self) -> Iterator[Batch]:
        """Yield all rows of the split in their order, without augmentation; the last batch may be smaller."""
        order = [self.rows[i : i + self.batch_size] for i in range(0, len(self.rows), self.batch_size)]
        with closing(self._gathered(order)) as gathered:
            for rows, pixels in gathered:
                yield self._batch(rows, pixels.to(self.device, non_blocking=True))

    def _gathered(self, order: Iterable[np.ndarray]) -> Generator[tuple[np.ndarray, RawImages], None, None]:
        """Yield rows and their uint8 images on the CPU, read ahead by a thread that ends with this generator."""
        remaining = iter(order)
        with ThreadPoolExecutor(1, thread_name_prefix="efface-batches") as pool:
            ahead: deque[Future[tuple[np.ndarray, Tensor]]] = deque(
                pool.submit(self._gather, rows) for rows in islice(remaining, PREFETCH)
            )
            try:
                while ahead:
                    found = ahead.popleft().result()
                    ahead.extend(pool.submit(self._gather, rows) for rows in islice(remaining, 1))
                    yield found
            finally:
                for future in ahead:
                    future.cancel()

    def _gather(self, rows: np.ndarray) -> tuple[np.ndarray, UInt8[Tensor, "B C H W"]]:
        """Copy rows out of the memory map; into pinned memory if they go to a GPU."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.dataset.images[rows]))
        return rows, pixels.pin_memory() if self.device.type == "cuda" else pixels

    def _batch(self, rows: np.ndarray, pixels: RawImages) -> Batch:
        """Make floats and add the labels."""
        images = normalised(pixels, self.dtype, self.memory_format)
        index = torch.from_numpy(rows)
        labels = {name: sent(values[index], self.device) for name, values in self._labels.items()}
        numbers = {name: sent(values[index], self.device) for name, values in self._numbers.items()}
        return Batch(images, pixels, labels.pop(self.dataset.target.name), labels, numbers)


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return a CPU generator that is a pure function of (seed, epoch, step)."""
    state = np.random.SeedSequence([seed, epoch, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
