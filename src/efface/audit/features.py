"""Features and logits of a model: every layer asked for in one pass, computed once and kept on disk.

A cache folder holds one folder per (weights, layer, data, precision): a second audit of the same model reads it. Layers
are read by hooks, so that a model need not be one that ``split`` can cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor, nn

from efface.audit.store import ChannelStatistics, Standard, StoredFeatures, decode, encode, storage_offset
from efface.data.batches import Batches, normalised
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS
from efface.errors import AuditError, CutError, expected
from efface.models.split import split
from efface.models.state import evaluating, reading

LAYOUT = "3"
PRECISIONS = ("auto", "bf16-mixed", "32-true")
TELLING = 512
"""People among whom features must repeat if they are those of a finite release."""
INPUT, LOGITS = "input", "logits"
"""Names of the two ends of a model, beside those of its layers: what goes in, and what comes out."""

Codes = UInt64[np.ndarray, " n"]
"""A hash of each person's features, before any rounding: equal codes, equal features."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What an encoder releases of a data set, at one layer.

    Attributes:
        features: Per split, features on disk; read batch by batch.
        labels: Per split and column, class indices; -1 is missing.
        logits: Per split, the model's own main-task logits; empty where there is no model that answers.
        layer: Where the features were taken.
        codes: Per split, a hash of each person's features; empty where the features of the first people all differ.
        numbers: Per split and column, the numbers that classes were cut from, NaN where missing; of columns with any.
    """

    features: Mapping[str, StoredFeatures]
    labels: Mapping[str, Mapping[str, Int[np.ndarray, " n"]]]
    logits: Mapping[str, Float[Tensor, "n Y"]]
    layer: str = "features"
    codes: Mapping[str, Codes] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one person's features."""
        return next(iter(self.features.values())).shape


def extract(
    model: nn.Module,
    dataset: AttributeDataset,
    at: str,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
    precision: str = "auto",
    cache: Path | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> FeatureSet:
    """Return the features at one layer; see ``extract_layers``."""
    return extract_layers(model, dataset, (at,), splits, batch_size, precision, cache, tick)[at]


def extract_layers(
    model: nn.Module,
    dataset: AttributeDataset,
    layers: Sequence[str],
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
    precision: str = "auto",
    cache: Path | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, FeatureSet]:
    """Compute features at layers, and the model's logits, of every image of the splits: one pass, in eval mode.

    The model is left as it was: weights, training flags, hooks.

    Args:
        model: Any module that takes images and returns logits, or an object with ``logits``.
        dataset: Images and labels.
        layers: Named layers, ``input`` or ``logits``.
        splits: Splits to read; the first one standardises the features.
        batch_size: Images per forward pass.
        precision: ``32-true`` (or ``auto``): float32 throughout; or ``bf16-mixed``: forward pass and storage.
        cache: Folder that keeps features between audits; None: a temporary one that goes with the result.
        tick: Called with the number of images done.

    Raises:
        AuditError: The precision is unknown, or features are not finite.
        CutError: The model has no such layer, or the layer does not return one tensor once.
    """
    if precision not in PRECISIONS:
        raise AuditError(expected("precision", f"one of {', '.join(PRECISIONS)}", precision))
    check_layers(model, layers)
    job = _Job(model, dataset, tuple(layers), tuple(splits), batch_size, precision, tick)
    if cache is not None:
        return job.extract(Path(cache))
    root = Path(tempfile.mkdtemp(prefix="efface-features-"))
    try:
        found = job.extract(root)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    # The folder goes with the last of the results.
    left = set(found)
    for name, one in found.items():
        weakref.finalize(one, _release, root, left, name)
    return found


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Refuse layers that a model does not have.

    Raises:
        CutError: With the layers that can be named.
    """
    known = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    unknown = [name for name in layers if name not in known and name not in (INPUT, LOGITS)]
    if unknown or not layers:
        split(model, unknown)  # says what is wrong, and where a model can be cut


def cache_key(model: nn.Module, dataset: AttributeDataset, at: str, splits: Sequence[str], precision: str) -> str:
    """Return 32 hex digits over structure, weights, layer, images and precision.

    The folder's name also depends on what two images release: code decides features too.
    """
    return _keyed(_digest(model, dataset, splits, precision), at)


def _digest(model: nn.Module, dataset: AttributeDataset, splits: Sequence[str], precision: str) -> Any:
    """A running hash of everything but the layer."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(f"{type(model).__qualname__}\n{model}".encode())
    digest.update(json.dumps([LAYOUT, list(splits), precision == "bf16-mixed", dataset.fingerprint]).encode())
    for name in splits:
        rows = dataset.rows(name)
        digest.update(rows.tobytes())
        if not dataset.fingerprint:
            digest.update(dataset.images[rows].tobytes())
    return digest


def _keyed(digest: Any, at: str, answer: str = "") -> str:
    digest = digest.copy()
    digest.update(json.dumps([at, answer]).encode())
    return digest.hexdigest()[:32]


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's weights are."""
    return next((value.device for value in model.parameters()), torch.device("cpu"))


@dataclass(frozen=True, eq=False)
class _Job:
    """An extraction: which layers of which images, and where it tells how far it is."""

    model: nn.Module
    dataset: AttributeDataset
    layers: tuple[str, ...]
    splits: tuple[str, ...]
    batch_size: int
    precision: str
    tick: Callable[[int], None]

    def extract(self, root: Path) -> dict[str, FeatureSet]:
        """Read each layer from its folder; compute those that have none."""
        digest = _digest(self.model, self.dataset, self.splits, self.precision)
        answers = self._answers()
        folders = {layer: root / _keyed(digest, layer, answers[layer]) for layer in dict.fromkeys(self.layers)}
        lacking = {layer: folder for layer, folder in folders.items() if not (folder / "standard.npz").exists()}
        if lacking:
            self._compute(lacking)
        else:
            self.tick(sum(len(self.dataset.rows(name)) for name in self.splits))
        return {layer: self._open(folder, layer) for layer, folder in folders.items()}

    def _answers(self) -> dict[str, str]:
        """What two images release at each layer: code and numbers outside the state_dict decide features too.

        Mean and spread, to five digits: those of one model agree on one thread and on several.
        """
        pixels = torch.from_numpy(self.dataset.images[self.dataset.rows(self.splits[0])[:2]].copy())
        images, device = normalised(pixels), device_of(self.model)
        with evaluating(self.model):
            torch.manual_seed(0)
            released, logits = forward(self.model, images.to(device), self.layers, self.precision)
        told = {
            layer: (released[layer].mean(), released[layer].std(), logits.mean(), logits.std()) for layer in self.layers
        }
        return {layer: " ".join(f"{float(value):.4e}" for value in values) for layer, values in told.items()}

    def _compute(self, folders: Mapping[str, Path]) -> None:
        """Fill cache folders; they appear under their names only when they are complete."""
        drafts = {layer: f.with_name(f"{f.name}.{os.getpid()}.part") for layer, f in folders.items()}
        try:
            for draft in drafts.values():
                draft.mkdir(parents=True, exist_ok=True)
            writers = {layer: _LayerWriter(draft, self.precision != "bf16-mixed") for layer, draft in drafts.items()}
            with evaluating(self.model):
                self._run(writers)
            for layer, folder in folders.items():
                writers[layer].finish()
                if not folder.exists():
                    drafts[layer].rename(folder)
        finally:
            for draft in drafts.values():
                shutil.rmtree(draft, ignore_errors=True)

    def _run(self, writers: Mapping[str, _LayerWriter]) -> None:
        device = device_of(self.model)
        for name in self.splits:
            for writer in writers.values():
                writer.begin(name, len(self.dataset.rows(name)))
            for batch in Batches(self.dataset, name, self.batch_size, device=device).sequential():
                released, logits = forward(self.model, batch.images, list(writers), self.precision)
                for layer, writer in writers.items():
                    writer.add(released[layer], logits)
                self.tick(len(batch.images))
            for writer in writers.values():
                writer.end()

    def _open(self, folder: Path, layer: str) -> FeatureSet:
        with np.load(folder / "standard.npz") as values:
            standard = Standard(*(torch.from_numpy(values[name]) for name in ("offset", "mean", "std")))
        features = {s: StoredFeatures(np.load(folder / f"{s}.npy", mmap_mode="r"), standard) for s in self.splits}
        logits = {s: torch.from_numpy(np.load(folder / f"{s}.logits.npy")) for s in self.splits}
        codes = {s: np.load(folder / f"{s}.codes.npy") for s in self.splits if (folder / f"{s}.codes.npy").exists()}
        columns = self.dataset.labels
        labels = {s: {name: self.dataset.split_labels(s, name) for name in columns} for s in self.splits}
        numbers = {s: {name: self.dataset.split_numbers(s, name) for name in self.dataset.numbers} for s in self.splits}
        return FeatureSet(features, labels, logits, layer, codes, numbers)


def forward(
    model: nn.Module, images: Tensor, layers: Sequence[str], precision: str = "auto"
) -> tuple[dict[str, Tensor], Tensor]:
    """Run one batch; return what the layers released and the logits, in float32, on the CPU.

    Raises:
        AuditError: Features or logits are not finite.
        CutError: A layer does not return one tensor, once.
    """
    with (
        _tapped(model, layers) as released,
        torch.autocast(images.device.type, torch.bfloat16, precision == "bf16-mixed"),
    ):
        with reading(images):
            outputs = model(images)
        logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise CutError(expected("model", "a module that returns logits [B, Y]", got))
    found = logits.float().cpu()
    released |= {name: value for name, value in ((INPUT, images), (LOGITS, found)) if name in layers}
    for layer in layers:
        if layer not in released:
            raise CutError(f"The model does not call its layer `{layer}` in a forward pass: nothing is released there.")
    for what, values in ((f"features at `{layer}`", released[layer]) for layer in layers):
        _refuse_infinite(what, values)
    _refuse_infinite("logits", found)
    return {name: value.float().cpu() for name, value in released.items()}, found


def _refuse_infinite(what: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise AuditError(f"The {what} hold values that are not finite. Try `precision='32-true'`, or other weights.")


@contextmanager
def _tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what layers return while the block runs; the hooks are taken off again."""
    found: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
            raise CutError(
                f"`{name}` returns a {type(output).__name__}, not one tensor of features with a row per image."
            )
        if name in found:
            raise CutError(f"`{name}` is called more than once in a forward pass: name a layer that is called once.")
        # A copy: what comes next may be an operation in place.
        found[name] = output.to("cpu", torch.float32, copy=True)

    with ExitStack() as stack:
        for name in layers:
            if name not in (INPUT, LOGITS):
                hook = model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: note(name, out))
                stack.callback(hook.remove)
        yield found


class _LayerWriter:
    """Writes the features of one layer, split by split and batch by batch."""

    def __init__(self, folder: Path, exact: bool):
        self.folder, self.exact = folder, exact
        self.statistics = ChannelStatistics()
        self.offset: Tensor | None = None
        self.first: str | None = None
        self.coded: bool | None = None

    def begin(self, name: str, people: int) -> None:
        """Start a split; the first one standardises the features."""
        self.name, self.people, self.at = name, people, 0
        self.first = self.first or name
        self.stored: np.memmap | None = None
        self.logits: list[Tensor] = []
        self.codes: list[Codes] = []

    def add(self, features: Tensor, logits: Tensor) -> None:
        """Write a batch; the file is made when the first batch tells the shape."""
        self.offset = storage_offset(features) if self.offset is None else self.offset
        bits = encode(features, self.offset, self.exact)
        if self.name == self.first:
            self.statistics.update(decode(bits))
        if self.stored is None:
            shape, path = (self.people, *bits.shape[1:]), self.folder / f"{self.name}.npy"
            self.stored = np.lib.format.open_memmap(path, mode="w+", dtype=bits.dtype, shape=shape)
        self.stored[self.at : self.at + len(bits)] = bits
        self.at += len(bits)
        self.logits.append(logits)
        if self.coded is not False:
            self.codes.append(row_codes(features.numpy()))
        if self.coded is None:
            self.coded = self._repeat()

    def _repeat(self) -> bool | None:
        """Whether features repeat, as those of a finite release do; continuous ones differ from person to person."""
        codes = np.concatenate(self.codes)
        return True if len(np.unique(codes)) < len(codes) else False if len(codes) >= TELLING else None

    def end(self) -> None:
        """Finish a split."""
        assert self.stored is not None
        assert self.at == self.people
        self.stored.flush()
        self.stored = None
        np.save(self.folder / f"{self.name}.logits.npy", torch.cat(self.logits).numpy())
        self.coded = bool(self.coded)
        if self.coded:
            np.save(self.folder / f"{self.name}.codes.npy", np.concatenate(self.codes))

    def finish(self) -> None:
        """Write what standardises the features."""
        assert self.offset is not None
        standard = self.statistics.standard(self.offset)
        arrays: dict[str, Any] = {"offset": self.offset, "mean": standard.mean, "std": standard.std}
        np.savez(self.folder / "standard.npz", **{name: value.numpy() for name, value in arrays.items()})


def row_codes(features: Float[np.ndarray, n * D]) -> Codes:
    """Return a 64-bit hash of each row's bytes.

    Example:
        >>> a, b, c = row_codes(np.array([[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]], np.float32)).tolist()
        >>> a == c, a == b
        (True, False)
    """
    rows = np.ascontiguousarray(features + 0.0, np.float32).reshape(len(features), -1)  # -0.0 is 0.0
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _release(root: Path, left: set[str], name: str) -> None:
    left.discard(name)
    if not left:
        shutil.rmtree(root, ignore_errors=True)
