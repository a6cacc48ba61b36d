"""Features and logits of a model, computed once in one pass and kept on disk.

A cache folder holds one folder per (weights, layer, data, precision): a second audit of the same model reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from efface.audit.store import ChannelStatistics, Standard, StoredFeatures, decode, encode, storage_offset
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS
from efface.errors import AuditError, expected
from efface.models.split import SplitModel, split

LAYOUT = "1"
PRECISIONS = ("auto", "bf16-mixed", "32-true")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What an encoder releases of a data set, at one layer.

    Attributes:
        features: Per split, features on disk; read batch by batch.
        labels: Per split and column, class indices; -1 is missing.
        logits: Per split, the model's own main-task logits.
        layer: Where the features were taken.
    """

    features: Mapping[str, StoredFeatures]
    labels: Mapping[str, Mapping[str, Int[np.ndarray, " n"]]]
    logits: Mapping[str, Float[Tensor, "n Y"]]
    layer: str = "features"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's features."""
        return next(iter(self.features.values())).shape


def extract(
    model: nn.Module,
    dataset: AttributeDataset,
    at: str,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 512,
    precision: str = "auto",
    cache: Path | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> FeatureSet:
    """Compute features at a layer, and the model's logits, of every image of the splits: one pass, in eval mode.

    The model is left as it was: weights, training flags, hooks.

    Args:
        model: Any module that ``split`` can cut.
        dataset: Images and labels.
        at: Named layer.
        splits: Splits to read; the first one standardises the features.
        batch_size: Images per forward pass.
        precision: ``bf16-mixed`` (or ``auto``) or ``32-true``.
        cache: Folder that keeps features between audits; None: a temporary one that goes with the result.
        tick: Called with the number of images done.

    Raises:
        AuditError: The precision is unknown, or features are not finite.
        CutError: The model can't be cut there.
    """
    if precision not in PRECISIONS:
        raise AuditError(expected("precision", f"one of {', '.join(PRECISIONS)}", precision))
    if cache is not None:
        return _extract(model, dataset, at, splits, batch_size, precision, Path(cache), tick)
    root = Path(tempfile.mkdtemp(prefix="efface-features-"))
    try:
        found = _extract(model, dataset, at, splits, batch_size, precision, root, tick)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    weakref.finalize(found, shutil.rmtree, root, True)
    return found


def _extract(
    model: nn.Module,
    dataset: AttributeDataset,
    at: str,
    splits: Sequence[str],
    batch_size: int,
    precision: str,
    root: Path,
    tick: Callable[[int], None],
) -> FeatureSet:
    folder = root / cache_key(model, dataset, at, splits, precision)
    if not (folder / "standard.npz").exists():
        _write(split(model, at), model, dataset, splits, batch_size, precision, folder, tick)
    else:
        tick(sum(len(dataset.rows(name)) for name in splits))
    return _open(folder, dataset, splits, at)


def cache_key(model: nn.Module, dataset: AttributeDataset, at: str, splits: Sequence[str], precision: str) -> str:
    """Return 32 hex digits over everything that decides the features: structure, weights, layer, images, precision."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(f"{type(model).__qualname__}\n{model}".encode())
    digest.update(json.dumps([LAYOUT, at, list(splits), precision != "32-true", dataset.fingerprint]).encode())
    for name in splits:
        rows = dataset.rows(name)
        digest.update(rows.tobytes())
        if not dataset.fingerprint:
            digest.update(dataset.images[rows].tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode without gradients, and every module back to its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's weights are."""
    return next((value.device for value in model.parameters()), torch.device("cpu"))


class _Writer:
    """Writes the features of one split, batch by batch; the file is made when the first batch tells the shape."""

    def __init__(self, path: Path, people: int):
        self.path, self.people, self.at = path, people, 0
        self.stored: np.memmap | None = None
        self.logits: list[Tensor] = []

    def add(self, bits: np.ndarray, logits: Float[Tensor, "B Y"]) -> None:
        if self.stored is None:
            shape = (self.people, *bits.shape[1:])
            self.stored = np.lib.format.open_memmap(self.path, mode="w+", dtype=np.int16, shape=shape)
        self.stored[self.at : self.at + len(bits)] = bits
        self.at += len(bits)
        self.logits.append(logits)

    def close(self) -> None:
        assert self.stored is not None
        assert self.at == self.people
        self.stored.flush()
        self.stored = None
        np.save(self.path.with_suffix(".logits.npy"), torch.cat(self.logits).numpy())


def _write(
    parts: SplitModel,
    model: nn.Module,
    dataset: AttributeDataset,
    splits: Sequence[str],
    batch_size: int,
    precision: str,
    folder: Path,
    tick: Callable[[int], None],
) -> None:
    """Fill a cache folder; it appears under its name only when it is complete."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    draft.mkdir(parents=True, exist_ok=True)
    statistics, offset = ChannelStatistics(), None
    device = device_of(model)
    try:
        with evaluating(model):
            parts.eval()
            for name in splits:
                writer = _Writer(draft / f"{name}.npy", len(dataset.rows(name)))
                for images in _images(dataset, name, batch_size, device):
                    features, logits = _forward(parts, images, precision)
                    offset = storage_offset(features) if offset is None else offset
                    bits = encode(features, offset)
                    if name == splits[0]:
                        statistics.update(decode(bits))
                    writer.add(bits, logits)
                    tick(len(images))
                writer.close()
        assert offset is not None
        standard = statistics.standard(offset)
        np.savez(draft / "standard.npz", offset=offset.numpy(), mean=standard.mean.numpy(), std=standard.std.numpy())
        if not folder.exists():
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _images(dataset: AttributeDataset, name: str, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    for batch in Batches(dataset, name, batch_size, device=device).sequential():
        yield batch.images


def _forward(parts: SplitModel, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """One batch: features and logits in float32, on the CPU."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision != "32-true"):
        features = parts.features(images)
        # A copy: the classifier may begin with an operation in place.
        released = features.to("cpu", torch.float32, copy=True)
        logits = parts.classifier(features)
    if not torch.isfinite(released).all():
        raise AuditError("The features hold values that are not finite. Try `precision='32-true'`, or other weights.")
    return released, logits.float().cpu()


def _open(folder: Path, dataset: AttributeDataset, splits: Sequence[str], layer: str) -> FeatureSet:
    with np.load(folder / "standard.npz") as values:
        standard = Standard(*(torch.from_numpy(values[name]) for name in ("offset", "mean", "std")))
    features = {s: StoredFeatures(np.load(folder / f"{s}.npy", mmap_mode="r"), standard) for s in splits}
    logits = {s: torch.from_numpy(np.load(folder / f"{s}.logits.npy")) for s in splits}
    labels = {s: {name: dataset.split_labels(s, name) for name in dataset.labels} for s in splits}
    return FeatureSet(features, labels, logits, layer)
