"""Images are decoded once, in bounded memory, into a cache that notices damage."""

from __future__ import annotations

import io
import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data_files
from data_files import encoded, noise
from efface.data import store as store_module
from efface.data.load import load_dataset
from efface.data.sources.decode import decode, measure
from efface.data.sources.open import open_source
from efface.data.store import cache_folder, open_store
from efface.errors import DataError


@pytest.fixture
def folder(tmp_path) -> Path:
    return data_files.parquet_folder(tmp_path / "p", {"train": 120, "test": 30})


@pytest.fixture
def opened(folder):
    return open_source(str(folder), "auto", None, {})


@pytest.fixture
def no_decoding(monkeypatch):
    """Make every further decoding fail the test."""

    def switch():
        def decoded(*args, **kwargs):
            raise AssertionError("decoded again")

        monkeypatch.setattr(store_module, "_write", decoded)

    return switch


def test_second_opening_reads_the_cache(tmp_path, folder, opened, no_decoding):
    first = open_store(opened, None, tmp_path / "c", progress=False)
    no_decoding()
    second = open_store(open_source(str(folder), "auto", None, {}), None, tmp_path / "c", progress=False)
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert (second.images == first.images).all()
    assert all((second.labels[name] == first.labels[name]).all() for name in first.labels)
    assert second.classes == first.classes
    assert second.refused == first.refused
    assert [p.name for p in (tmp_path / "c").iterdir()] == [f"p-own-{first.key}"]


def test_size_content_and_column_have_their_own_entries(tmp_path, folder, opened):
    keys = {open_store(opened, size, tmp_path / "c", progress=False).key for size in (None, 4, 8)}
    (folder / "test.parquet").unlink()
    keys.add(open_store(open_source(str(folder), "auto", None, {}), 8, tmp_path / "c", progress=False).key)
    assert len(keys) == 4


def test_a_changed_image_file_is_another_entry(tmp_path):
    root = data_files.metadata_folder(tmp_path / "m", 12)
    before = open_source(str(root), "auto", None, {}).key()
    assert open_source(str(root), "auto", None, {}).key() == before
    data_files.write_png(root / "images" / "3.png", noise(999))
    changed = open_source(str(root), "auto", None, {}).key()
    (root / "images" / "4.png").unlink()
    assert len({before, changed, open_source(str(root), "auto", None, {}).key()}) == 3


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200:] = bytes(len(content) - 200)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["images.npy", "labels.npz", "meta.json"])
@pytest.mark.parametrize("damage", [_truncate, _zero, Path.unlink])
def test_a_damaged_entry_is_written_again(tmp_path, opened, name, damage):
    first = open_store(opened, None, tmp_path / "c", progress=False)
    entry = tmp_path / "c" / f"p-own-{first.key}"
    kept = np.array(first.images)
    damage(entry / name)
    second = open_store(opened, None, tmp_path / "c", progress=False)
    assert (second.images == kept).all()
    assert [p.name for p in (tmp_path / "c").iterdir()] == [entry.name]


def test_an_entry_of_another_key_is_written_again(tmp_path, opened):
    first = open_store(opened, None, tmp_path / "c", progress=False)
    meta = tmp_path / "c" / f"p-own-{first.key}" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "key": "x"}))
    open_store(opened, None, tmp_path / "c", progress=False)
    assert json.loads(meta.read_text())["key"] == first.key


def test_an_interrupted_decoding_leaves_nothing(tmp_path, opened, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "_hash", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_store(opened, None, tmp_path / "c", progress=False)
    assert list((tmp_path / "c").iterdir()) == []


def _open_in_process(folder: str, cache: str, barrier, results) -> None:
    source = open_source(folder, "auto", None, {})
    barrier.wait(30)
    results.put(int(np.asarray(open_store(source, 6, Path(cache), progress=False).images, np.int64).sum()))


def test_two_processes_may_decode_at_once(tmp_path, folder):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (str(folder), str(tmp_path / "c"), barrier, results)
    processes = [context.Process(target=_open_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(30)
    assert len(sums) == 1
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_decoding_while_another_process_finishes_first(tmp_path, opened, monkeypatch):
    write, raced = store_module._write, []

    def slower(*args):
        write(*args)
        if not raced:
            raced.append(True)
            open_store(opened, None, tmp_path / "c", progress=False)

    monkeypatch.setattr(store_module, "_write", slower)
    found = open_store(opened, None, tmp_path / "c", progress=False)
    assert len(found.images) == 150
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_only_a_chunk_is_in_memory(tmp_path, monkeypatch):
    from efface.data.sources import folder as folder_module

    root = data_files.metadata_folder(tmp_path / "m", 200)
    monkeypatch.setattr(folder_module, "CHUNK", 16)
    largest = []
    zeros = np.zeros
    monkeypatch.setattr(np, "zeros", lambda shape, *a, **k: largest.append(np.prod(shape)) or zeros(shape, *a, **k))
    open_store(open_source(str(root), "auto", None, {}), 32, tmp_path / "c", progress=False)
    assert max(largest) <= 16 * 3 * 32 * 32


def broken_parquet(tmp_path: Path, n: int, broken: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [encoded(noise(i)) for i in range(n)]
    kinds = [b"", b"no image", images[0][:60], None]
    for i in range(broken):
        images[i] = kinds[i % 4]
    table = pa.table(
        {"image": [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(images)], **data_files.columns(n)}
    )
    pq.write_table(table, tmp_path / "faces.parquet")
    return tmp_path / "faces.parquet"


@pytest.mark.parametrize("size", [None, 8])
def test_a_few_unreadable_images_are_dropped_and_counted(tmp_path, size):
    file = broken_parquet(tmp_path, 400, 4)
    for _ in range(2):
        data = load_dataset(file, target="gender", attributes="race", size=size, cache=tmp_path / "c", progress=False)
        assert data.warnings == ("4 of 400 images can't be read (first: 0.png, 1.png, 2.png, 3.png); dropped.",)
        used = np.concatenate(list(data.splits.values()))
        assert sorted(used) == list(range(4, 400))


def test_many_unreadable_images_are_refused_with_the_first_five(tmp_path):
    file = broken_parquet(tmp_path, 400, 8)
    message = r"8 of 400 images can't be read \(first: 0.png, 1.png, 2.png, 3.png, 4.png\): more than 1%"
    with pytest.raises(DataError, match=message):
        load_dataset(file, target="gender", attributes="race", cache=tmp_path / "c", progress=False)
    assert list((tmp_path / "c").iterdir()) == []


def test_nothing_readable(tmp_path):
    file = broken_parquet(tmp_path, 8, 8)
    with pytest.raises(DataError, match="none of the files of 'faces' can be read as an image"):
        load_dataset(file, target="gender", attributes="race", cache=tmp_path / "c", progress=False)


def test_image_files_that_are_missing_are_unreadable(tmp_path):
    root = data_files.metadata_folder(tmp_path / "m", 20)
    (root / "images" / "7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 20 images can't be read \(first: 7\.png\)"):
        load_dataset(root, target="gender", attributes="race", cache=tmp_path / "c", progress=False)


@pytest.mark.parametrize("shape", [(9, 8), (9, 9)])
@pytest.mark.parametrize("row", [0, 30])
def test_images_of_several_shapes_need_a_size(tmp_path, row, shape):
    root = data_files.metadata_folder(tmp_path / "m", 60)
    data_files.write_png(root / "images" / f"{row}.png", noise(999, *shape))
    arguments = {"target": "gender", "attributes": "race", "cache": tmp_path / "c", "progress": False}
    with pytest.raises(DataError, match=r"Expected `data.size` to be a number of pixels.*--set data.size=64"):
        load_dataset(root, **arguments)
    assert load_dataset(root, size=8, **arguments).image_shape == (3, 8, 8)


def test_a_cache_that_cannot_be_written(tmp_path, opened, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write the cache of decoded images"):
        open_store(opened, None, tmp_path / "file", progress=False)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match=r"need 0\.0 GB, but 0\.0 GB are free"):
        open_store(opened, None, tmp_path / "c", progress=False)


def test_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    monkeypatch.delenv("EFFACE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "efface"


def test_the_progress_bar_leaves_no_thread(tmp_path, opened, capsys):
    before = set(threading.enumerate())
    open_store(opened, 16, tmp_path / "c", progress=True)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    grey = (noise(0)[..., 0] // 128 * 255).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": b"\x80\xff"} if mode == "P" else {}))
    assert (decode(buffer.getvalue(), 8) == grey).all()


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_pixels_of_32_bits_are_refused(mode, dtype):
    buffer = io.BytesIO()
    Image.fromarray(np.ones((8, 8), dtype)).save(buffer, "TIFF")
    with pytest.raises(DataError, match=f"32-bit pixels \\(mode {mode}\\)"):
        decode(buffer.getvalue(), 8)


def test_rotation_of_cameras_is_undone():
    image = Image.fromarray(noise(0, 6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert measure(buffer.getvalue()) == (4, 6)
    turned = decode(encoded(np.rot90(noise(0, 6, 4), -1)), 4)
    assert (decode(buffer.getvalue(), 4) == turned).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(2, 24), st.integers(0, 100))
def test_decoding_is_a_centre_crop_then_a_resize(width, height, size, seed):
    pixels = noise(seed, width, height)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    crop = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    wanted = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert (decode(encoded(pixels), size) == wanted).all()
