"""Batches are pure functions of (seed, epoch, step); augmentation is checked against a naive loop."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.data.batches import Batches, augmented, batch_indices
from efface.data.dataset import AttributeDataset, build_schema
from efface.errors import DataError

N = 60


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    labels = {"y": np.arange(N) % 2, "z": np.arange(N) // 2 % 3, "other": np.arange(N) % 4}
    labels["z"][5] = -1
    classes = {"y": ("a", "b"), "z": ("0", "1", "2"), "other": ("0", "1", "2", "3")}
    splits = {"train": np.arange(40), "validation": np.arange(40, 50), "test": np.arange(50, 60)}
    images = generator.integers(0, 256, (N, 3, 8, 10), dtype=np.uint8)
    images.setflags(write=False)
    return AttributeDataset(images, labels, splits, build_schema(labels, classes, splits, "y", ["z"]))


def same(one, other):
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.pixels, other.pixels)
        and torch.equal(one.target, other.target)
        and all(torch.equal(one.attributes[name], other.attributes[name]) for name in one.attributes)
    )


def test_fields(data):
    batch = next(iter(Batches(data, "test", 4).sequential()))
    raw = data.images[50:54]
    assert len(batch) == 4
    assert (batch.pixels.numpy() == raw).all()
    torch.testing.assert_close(batch.images, torch.from_numpy(raw / 255.0).float().sub(0.5).div(0.25))
    torch.testing.assert_close(batch.raw01, torch.from_numpy(raw / 255.0).float())
    assert batch.raw01.min() >= 0
    assert batch.raw01.max() <= 1
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.tolist() == [0, 1, 0, 1]
    assert list(batch.attributes) == ["z"]
    assert batch.attributes["z"].tolist() == data.labels["z"][50:54].tolist()


def test_numbers_behind_attributes_travel_with_them(data):
    """In the order of the rows, missing ones too; numbers of other columns stay where they are."""
    values = np.where(np.arange(N) % 7 == 3, np.nan, np.arange(N) / 4)
    told = replace(data, numbers={"z": values, "other": values})
    for batch in (
        next(iter(Batches(told, "train", 8, seed=2).epoch(1))),
        next(iter(Batches(told, "test", 8).sequential())),
    ):
        places = [int(np.flatnonzero((data.images == one.numpy()).all((1, 2, 3)))[0]) for one in batch.pixels]
        np.testing.assert_array_equal(batch.numbers["z"].numpy(), values[places].astype(np.float32))
        assert list(batch.numbers) == ["z"]
    assert next(iter(Batches(data, "test", 4).sequential())).numbers == {}


def test_dtype_and_layout(data):
    batches = Batches(data, "test", 4, dtype=torch.bfloat16, channels_last=False)
    batch = next(iter(batches.sequential()))
    assert batch.images.dtype == torch.bfloat16
    assert batch.images.is_contiguous()
    assert batch.raw01.dtype == torch.float32


@given(st.integers(0, 50), st.integers(1, 20), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_has_every_row_once(n, batch_size, seed, epoch):
    rows = np.arange(100, 100 + n)
    batches = batch_indices(rows, batch_size, seed, epoch, drop_last=False)
    assert sorted(np.concatenate([*batches, []])) == list(rows)
    full = batch_indices(rows, batch_size, seed, epoch)
    assert [len(b) for b in full] == [batch_size] * (n // batch_size)
    assert all((a == b).all() for a, b in zip(full, batches, strict=False))


def test_epochs_and_seeds_have_their_own_order():
    rows = np.arange(50)
    orders = [np.concatenate(batch_indices(rows, 10, seed, epoch)).tolist() for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("start", [0, 1, 3, 5, 9])
def test_an_epoch_resumes_to_the_bit(data, start):
    def batches():
        return Batches(data, "train", 8, augment=(True, 2), seed=3)

    whole = list(batches().epoch(4))
    rest = list(batches().epoch(4, start=start))
    assert len(whole) == len(batches()) == 5
    assert len(rest) == max(5 - start, 0)
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_the_global_generators_play_no_part(data):
    batches = Batches(data, "train", 8, augment=(True, 2), seed=3)
    torch.manual_seed(1)
    first, state = list(batches.epoch(0)), torch.get_rng_state()
    torch.manual_seed(2)
    assert all(same(a, b) for a, b in zip(first, batches.epoch(0), strict=True))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_epochs_are_augmented_differently_and_evaluation_never(data):
    batches = Batches(data, "train", 40, augment=(True, 2), seed=0)
    first, second = next(batches.epoch(0)), next(batches.epoch(1))
    assert not torch.equal(first.pixels, second.pixels)
    (plain,) = batches.sequential()
    assert (plain.pixels.numpy() == data.images[:40]).all()
    unaugmented = next(Batches(data, "train", 40, seed=0).epoch(0))
    rows = batch_indices(np.arange(40), 40, 0, 0)[0]
    assert (unaugmented.pixels.numpy() == data.images[rows]).all()


def test_labels_follow_their_images(data):
    for batch in Batches(data, "train", 8, seed=1).epoch(0):
        for pixels, y, z in zip(batch.pixels.numpy(), batch.target, batch.attributes["z"], strict=True):
            (row,) = np.flatnonzero((data.images == pixels).all((1, 2, 3)))
            assert y == data.labels["y"][row]
            assert z == data.labels["z"][row]


def naive(image: np.ndarray, dy: int, dx: int, flip: bool) -> np.ndarray:
    """Pad by reflection, crop, mirror: one image."""
    pad = max(abs(dy), abs(dx))
    h, w = image.shape[1:]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
    crop = padded[:, pad + dy : pad + dy + h, pad + dx : pad + dx + w]
    return crop[:, :, ::-1] if flip else crop


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 7), st.booleans(), st.integers(0, 1000))
def test_augmentation_is_one_of_the_naive_ones(shift, flip, seed):
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 3, 8, 9), dtype=np.uint8))
    found = augmented(images, flip, shift, torch.Generator().manual_seed(seed)).numpy()
    moves = range(-shift, shift + 1)
    for image, result in zip(images.numpy(), found, strict=True):
        assert any(
            np.array_equal(naive(image, dy, dx, mirrored), result)
            for dy in moves
            for dx in moves
            for mirrored in ((False, True) if flip else (False,))
        )


def test_flips_and_shifts_are_uniform():
    n = 20_000
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5).expand(n, 1, 5, 5)
    found = augmented(image, True, 1, torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(found.view(n, -1), dim=0, return_counts=True)
    assert len(kinds) == 18
    # Each of 18 is binomial: 5.5 standard deviations.
    assert (counts - n / 18).abs().max() < 5.5 * (n / 18) ** 0.5


def test_no_augmentation_leaves_the_pixels():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    assert torch.equal(augmented(images, False, 0, torch.Generator()), images)


def batch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("efface-batches")]


def test_no_thread_is_left_when_the_loop_is_left(data):
    batches = Batches(data, "train", 4, seed=0)
    for _ in batches.epoch(0):
        break
    assert batch_threads() == []
    list(batches.epoch(0))
    assert batch_threads() == []

    def failing():
        for _ in batches.epoch(0):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        failing()
    iterator = batches.sequential()
    next(iterator)
    assert len(batch_threads()) == 1
    iterator.close()
    assert batch_threads() == []


def test_an_error_of_the_thread_reaches_the_loop(data):
    batches = Batches(data, "train", 4)
    batches.rows = np.arange(40) + 30
    with pytest.raises(IndexError):
        list(batches.sequential())
    assert batch_threads() == []


def test_little_is_read_ahead(data):
    gathered = []
    batches = Batches(data, "train", 4)
    gather = batches._gather
    batches._gather = lambda rows: gathered.append(len(rows)) or gather(rows)
    iterator = batches.epoch(0)
    next(iterator)
    iterator.close()
    assert len(gathered) <= 3


def test_lengths(data):
    assert len(Batches(data, "train", 16)) == 2
    assert len(Batches(data, "train", 16, drop_last=False)) == 3
    assert [len(b) for b in Batches(data, "train", 16, drop_last=False).epoch(0)] == [16, 16, 8]
    assert [len(b) for b in Batches(data, "train", 16).sequential()] == [16, 16, 8]
    assert list(Batches(data, "train", 64).epoch(0)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "Expected `batch_size` to be an integer larger than 0"),
        (
            {"batch_size": 2, "augment": (True, 8)},
            "Expected `data.shift` to be from 0 to 7 for these images, but got 8",
        ),
        ({"batch_size": 2, "split": "tets"}, "Did you mean 'test'"),
    ],
)
def test_wrong_arguments(data, options, message):
    with pytest.raises(DataError, match=message):
        Batches(data, **{"split": "train", **options})
