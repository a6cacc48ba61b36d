"""The decoded store: every image decoded once to uint8, in a memory-mapped file beside its labels.

A store is a folder ``NAME-SIZE-KEY`` in the cache: ``images.npy`` [N, 3, S, S], ``labels.npz`` and ``meta.json``. The
key covers content, reader, size and format, so that an entry never goes stale; deleting it is always possible.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, Int8, UInt8, UInt64

from efface.data.sources.base import Encoded, Source
from efface.data.sources.decode import decode, measure, require_square
from efface.data.sources.labels import encode_labels, read_numbers
from efface.errors import DataError

FORMAT = 2
"""Raised whenever stores written by older code must not be read any more."""
THREADS = 2
GROUP = 64
"""Images per task of the decoding threads."""
MOST_UNREADABLE = 0.01
"""Share of unreadable images above which the data set is refused."""


@dataclass(frozen=True)
class Store:
    """A decoded source, before splits and columns are chosen.

    Attributes:
        key: Hash of content, reader, size and format.
        images: ``[N, 3, S, S]`` uint8, memory-mapped; zeros where unreadable.
        labels: ``{column: [N]}`` class indices, -1 where missing.
        classes: Class names of these columns.
        refused: Why each other column is not one of classes.
        numbers: ``{column: [N]}`` values of those among the refused that hold numbers, NaN where missing.
        split: ``[N]`` index into SPLITS, -1 for rows of no split.
        hashes: ``[N]`` 64-bit hash of the decoded pixels; 0 where unreadable.
        unreadable: Rows whose image can't be decoded.
        warnings: Counted remarks.
        cut: ``{column: [N]}`` numbers that derived columns were cut from, NaN where missing.
    """

    key: str
    images: UInt8[np.ndarray, "N 3 S S"]
    labels: Mapping[str, Int[np.ndarray, " N"]]
    classes: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, str]
    split: Int8[np.ndarray, " N"]
    hashes: UInt64[np.ndarray, " N"]
    unreadable: Int[np.ndarray, " u"]
    warnings: tuple[str, ...] = ()
    numbers: Mapping[str, Float64[np.ndarray, " N"]] = field(default_factory=dict)
    cut: Mapping[str, Float64[np.ndarray, " N"]] = field(default_factory=dict)


def cache_folder(cache: Path | None = None) -> Path:
    """Return the folder of decoded images: the given one, else ``$EFFACE_CACHE``, else ``~/.cache/efface``."""
    return Path(cache or os.environ.get("EFFACE_CACHE") or Path.home() / ".cache" / "efface").expanduser()


def open_store(source: Source, size: int | None, cache: Path | None = None, progress: bool = True) -> Store:
    """Return the decoded source, from the cache or decoded now.

    Decoding holds one chunk of images in memory. It writes to a folder of its own that is renamed when complete: two
    processes may decode at once (the first to finish wins), and an interrupted one leaves nothing that is read.
    A damaged store is written again.

    Args:
        source: What to decode.
        size: Pixels; None keeps images that are squares of one size.
        cache: See ``cache_folder``.
        progress: Show a bar while decoding.

    Raises:
        DataError: No images, more than 1 % unreadable, not square without a size, or the cache can't be written.
    """
    key = hashlib.sha256(f"{FORMAT}|{source.key()}|{size}".encode()).hexdigest()[:20]
    name = re.sub(r"[^\w.-]+", "-", source.name).strip("-.") or "data"
    folder = cache_folder(cache) / f"{name}-{size or 'own'}-{key}"
    found = _read(folder, key)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"Cannot write the cache of decoded images: {error}. Set data.cache or $EFFACE_CACHE."
        ) from None
    try:
        _write(source, size, key, temporary, progress)
        _publish(temporary, folder, key)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _read(folder, key)
    if found is None:
        raise DataError(f"The cache of decoded images {folder.name!r} can't be read back; is the disk full or failing?")
    return found


def _publish(temporary: Path, folder: Path, key: str) -> None:
    """Rename into place, unless another process was faster; a damaged store there is moved out of the way."""
    for _ in range(3):
        try:
            temporary.replace(folder)
            return
        except OSError:
            if _read(folder, key) is not None:
                return
            shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path, key: str) -> Store | None:
    """Open a store; None if there is none, or it is damaged.

    Whole sizes are checked, the labels' checksums, and the hashes of 64 images spread over the file.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        # Opened here, since numpy leaves a damaged archive open.
        with (folder / "labels.npz").open("rb") as file, np.load(file) as arrays:
            matrix, split, hashes, unreadable = (arrays[n] for n in ("labels", "split", "hashes", "unreadable"))
            numbers = dict(zip(json.loads(str(arrays["numbered"])), arrays["numbers"], strict=True))
        images = np.load(folder / "images.npy", mmap_mode="r")
        if meta["key"] != key or len(images) != len(hashes) or matrix.shape != (len(meta["classes"]), len(images)):
            return None
        good = np.setdiff1d(np.linspace(0, len(images) - 1, 64).astype(np.int64), unreadable)
        if any(_hash(images[row]) != hashes[row] for row in good):
            return None
        classes = {name: tuple(names) for name, names in meta["classes"].items()}
        labels = {name: codes.astype(np.int64) for name, codes in zip(classes, matrix, strict=True)}
        remarks = tuple(meta["warnings"])
        return Store(key, images, labels, classes, meta["refused"], split, hashes, unreadable, remarks, numbers)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None


def _write(source: Source, size: int | None, key: str, folder: Path, progress: bool) -> None:
    """Decode a source into a folder."""
    raw = source.labels()
    n = raw.table.num_rows
    if not n:
        raise DataError(f"No images found in {source.name!r}.")
    encoded, refused = encode_labels(raw)
    keep = size is None
    size = size or _own_size(source)
    need, free = n * 3 * size * size, shutil.disk_usage(folder).free
    if need > free:
        sizes = f"{need / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        raise DataError(f"The decoded images need {sizes}. Set data.cache or data.size.")
    hashes, failed = _write_images(source, n, size, keep, folder / "images.npy", progress)
    bad = [row for row, _ in failed]
    warnings = list(raw.warnings)
    if failed:
        names = ", ".join(name for _, name in failed[:5])
        message = f"{len(failed)} of {n} images can't be read (first: {names})"
        if len(failed) > MOST_UNREADABLE * n:
            raise DataError(f"{message}: more than {MOST_UNREADABLE:.0%}. Repair or leave out these files.")
        warnings.append(f"{message}; dropped.")
    # Class indices fit in 16 bits (ClassLabel columns of a thousand classes included).
    matrix = np.stack([c.codes for c in encoded.values()]).astype(np.int16) if encoded else np.empty((0, n), np.int16)
    found = read_numbers(raw, refused)
    np.savez(
        folder / "labels.npz",
        labels=matrix,
        split=raw.split,
        hashes=hashes,
        unreadable=np.asarray(bad, np.int64),
        numbers=np.stack(list(found.values())) if found else np.empty((0, n)),
        numbered=np.array(json.dumps(list(found))),
    )
    classes = {name: list(column.names) for name, column in encoded.items()}
    meta = {"key": key, "source": source.name, "classes": classes, "refused": refused, "warnings": warnings}
    (folder / "meta.json").write_text(json.dumps(meta, ensure_ascii=False))


def _write_images(
    source: Source, n: int, size: int, keep: bool, path: Path, progress: bool
) -> tuple[UInt64[np.ndarray, " N"], list[tuple[int, str]]]:
    """Decode chunk by chunk, in threads, straight to disk; return hashes, and rows and names of unreadable images."""
    hashes, failed, row = np.zeros(n, np.uint64), [], 0
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)}
    # Plain writes rather than a writable memory map: written pages don't count as this process's memory, and a full
    # disk is an error message instead of a killed process.
    with ThreadPoolExecutor(THREADS) as pool, path.open("wb") as file, _bar(source.name, n, progress) as advance:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in source.images():
            out = np.zeros((len(chunk), 3, size, size), np.uint8)
            starts = range(0, len(chunk), GROUP)
            tasks = [pool.submit(_decode_group, chunk[i : i + GROUP], out[i : i + GROUP], keep) for i in starts]
            for start, task in zip(starts, tasks, strict=True):
                for i, digest in enumerate(task.result(), start):
                    if digest is None:
                        failed.append((row + i, chunk[i][0]))
                    else:
                        hashes[row + i] = digest
            file.write(out.data)
            row += len(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if row != n:
        raise DataError(f"{source.name!r} has {n} rows of labels, but {row} images.")
    return hashes, failed


def _decode_group(chunk: list[Encoded], out: UInt8[np.ndarray, "n 3 S S"], keep: bool) -> list[int | None]:
    """Decode images into ``out``; return the hash of each, None for an unreadable one. ``keep`` refuses to resize."""
    hashes: list[int | None] = []
    size = out.shape[-1]
    for (name, content), pixels in zip(chunk, out, strict=True):
        try:
            if content is None:
                raise OSError("no image")
            pixels[:] = decode(content, size, keep, name)
            hashes.append(_hash(pixels))
        except DataError:
            raise
        # Pillow's plugins raise all kinds of errors on damaged files; each one means: unreadable.
        except Exception:
            hashes.append(None)
    return hashes


def _own_size(source: Source) -> int:
    """Return the width of the first readable image; decoding checks that all others have it."""
    for chunk in source.images():
        for name, content in chunk:
            try:
                width, height = measure(content) if content is not None else (0, 0)
            except Exception:
                continue
            if width:
                require_square(width, height, width, name)
                return width
    raise DataError(f"No images found: none of the files of {source.name!r} can be read as an image.")


def _hash(pixels: UInt8[np.ndarray, "3 S S"]) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest(), "little")


@contextmanager
def _bar(name: str, n: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error; yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Decoding {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(name, total=n)
        yield lambda count: progress.advance(task, count)
