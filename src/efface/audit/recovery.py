"""Attribute recovery: what a classifier trained on real images sees in images drawn from released features.

Pixel figures (PSNR, SSIM) say how alike two images are, not what of a person is left in the drawing. The classifier
learns from the real training images, blurred at random as drawings are, never from a drawing, and never sees features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from efface.audit.attackers.training import one_cycle
from efface.audit.figures import Figure
from efface.audit.floors import Floors, floors, label_guess
from efface.audit.intervals import Resampling, accuracy_interval, excess_interval
from efface.audit.metrics import excess_leakage
from efface.audit.probe import difference, tools
from efface.data.batches import MEAN, STD, augmented, batch_indices
from efface.data.dataset import AttributeDataset
from efface.data.schema import MISSING, Column
from efface.engine.devices import has_fast_bfloat16
from efface.errors import AuditError, Problems, expected
from efface.models.zoo import build
from efface.shapes import Images, Logits

Draw: TypeAlias = Callable[[Int[np.ndarray, " B"]], Float[Tensor, "B C H W"]]
"""Places of people within a split to images drawn of them, in [0, 1]."""
WIDTH = 16
PEOPLE = 10_000
"""Most training people of an epoch."""
LEARNING_RATE = 3e-3
BLURS = (1, 1, 2, 4)
"""Widths of the cells that training images are averaged over; one is drawn for every batch."""
READ = 256


@dataclass(frozen=True)
class Reader:
    """A classifier of real images with one answer per column; frozen.

    Attributes:
        network: Normalised images to the logits of all columns, one after the other.
        columns: What it answers.
        device: Where it is.
    """

    network: nn.Module
    columns: tuple[Column, ...]
    device: torch.device

    @torch.no_grad()
    def guesses(self, images: Float[Tensor, "B C H W"]) -> dict[str, Int[np.ndarray, " B"]]:
        """Return the class of each image in [0, 1], by column."""
        logits = answers(self.network, normalise(images.to(self.device)), self.columns)
        return {name: values.argmax(1).cpu().numpy() for name, values in logits.items()}


@dataclass(frozen=True)
class Recovered:
    """One attribute, read off real images and off drawings.

    Attributes:
        attribute: Its column.
        n: People read.
        floors: What is guessed without any image.
        real: Accuracy on the real images of the people read: the reference.
        drawn: Accuracy on drawings, by whose features they were drawn from.
        share: (drawn − label floor) / (real − label floor), clipped at 0; None where the classifier is within noise of
            the floor on real images.
        change: Accuracy on the drawings of the last model less that on the first's, or None with one model.
    """

    attribute: str
    n: int
    floors: Floors
    real: Figure
    drawn: Mapping[str, Figure]
    share: Mapping[str, Figure | None]
    change: Figure | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "attribute": self.attribute,
            "n": self.n,
            "floors": {name: getattr(self.floors, name) for name in ("chance", "majority", "label")},
            "real": self.real.to_dict(),
            "drawn": {role: figure.to_dict() for role, figure in self.drawn.items()},
            "share": {role: figure and figure.to_dict() for role, figure in self.share.items()},
            "change": self.change and self.change.to_dict(),
        }


def fit_reader(
    dataset: AttributeDataset,
    columns: Sequence[Column],
    *,
    epochs: int = 6,
    batch_size: int = 128,
    width: int = WIDTH,
    seed: int = 0,
    device: torch.device | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Reader:
    """Train one small ResNet-18 on the real training images, for all columns at once.

    Args:
        dataset: Images and labels.
        columns: What to learn; people without a label of a column count for the others.
        epochs: Passes over at most 10,000 training people.
        batch_size: Images per step; small data sets are cut into more steps.
        width: Base channels of the network.
        seed: Of weights, order, augmentation and blur.
        device: Where to train.
        tick: Called after every epoch.

    Raises:
        AuditError: No column is given, or one has no labels among the training people.
    """
    _check(dataset, columns)
    device = device or torch.device("cpu")
    channels, size, _ = dataset.image_shape
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        outputs = sum(column.n_classes for column in columns)
        network = build("resnet18", outputs, size, width=width, in_chans=channels).to(device)
        _train(network, dataset, columns, epochs, batch_size, seed, device, tick)
    return Reader(network.eval(), tuple(columns), device)


def recover(
    reader: Reader,
    draws: Mapping[str, Draw],
    dataset: AttributeDataset,
    target: str,
    split: str = "test",
    how: Resampling | None = None,
) -> list[Recovered]:
    """Read every column off real images and off drawings of the same people.

    Args:
        reader: Trained on real images.
        draws: By whose features: usually ``original`` and ``unlearned``, in this order.
        dataset: The real images.
        target: Column of the main task, for the label floor.
        split: The people read.
        how: Confidence and resamples.

    Raises:
        AuditError: A drawing is not in [0, 1], or not of the size of the images; nobody has a label of a column.
    """
    rows, how = dataset.rows(split), how or Resampling()
    real: Draw = lambda places: torch.from_numpy(dataset.images[rows[places]]).float() / 255  # noqa: E731
    guessed = {role: _read(reader, draw, role, dataset, len(rows)) for role, draw in {"": real, **draws}.items()}
    found = []
    for column in reader.columns:
        labels, y = dataset.split_labels(split, column.name), dataset.split_labels(split, target)
        known = labels >= 0
        if not known.any():
            raise AuditError(f"Nobody in the {split} split has a label of {column.name!r}: it can't be read.")
        right = {role: (guesses[column.name] == labels)[known] for role, guesses in guessed.items()}
        found.append(recovered(right.pop(""), right, column, y[known], labels[known], how))
    return found


def recovered(
    real: Bool[np.ndarray, " n"],
    drawn: Mapping[str, Bool[np.ndarray, " n"]],
    column: Column,
    target: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    how: Resampling,
) -> Recovered:
    """Compare right guesses of the same people, on real images and on drawings.

    Args:
        real: Whom the classifier guesses right from the real image.
        drawn: Whom from the drawing, by whose features.
        column: The attribute.
        target: Main task of these people.
        labels: The attribute of these people, none missing.
        how: Confidence and resamples.
    """
    found = floors(target, labels, column.n_classes)
    by_label = label_guess(target, labels, column.n_classes) == labels
    sees = difference(real, by_label, how).ci[0] > 0

    def share(right: Bool[np.ndarray, " n"]) -> Figure | None:
        value = excess_leakage(float(right.mean()), float(real.mean()), found.label)
        if value is None or not sees:
            return None
        return Figure(value, excess_interval(right, real, by_label, *tools(how)))

    every = list(drawn.values())
    return Recovered(
        attribute=column.name,
        n=len(labels),
        floors=found,
        real=Figure(float(real.mean()), accuracy_interval(real, *tools(how))),
        drawn={role: Figure(float(r.mean()), accuracy_interval(r, *tools(how))) for role, r in drawn.items()},
        share={role: share(right) for role, right in drawn.items()},
        change=difference(every[-1], every[0], how) if len(every) > 1 else None,
    )


def normalise(images: Float[Tensor, "B C H W"]) -> Images:
    """Return images in [0, 1] as the network reads them."""
    return (images - MEAN) / STD


def answers(network: nn.Module, images: Images, columns: Sequence[Column]) -> dict[str, Logits]:
    """Return the logits of each column."""
    parts = network(images).float().split([column.n_classes for column in columns], 1)
    return {column.name: part for column, part in zip(columns, parts, strict=True)}


def blurred(images: Float[Tensor, "B C H W"], cell: int) -> Float[Tensor, "B C H W"]:
    """Return images averaged over cells of so many pixels and drawn smoothly again, as decoders draw.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> blurred(images, 1) is images, blurred(images, 4).shape
        (True, torch.Size([2, 3, 8, 8]))
    """
    if cell < 2 or min(images.shape[2:]) < 2 * cell:
        return images
    return F.interpolate(F.avg_pool2d(images, cell), images.shape[2:], mode="bilinear", align_corners=False)


def _train(
    network: nn.Module,
    dataset: AttributeDataset,
    columns: Sequence[Column],
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> None:
    rows = dataset.rows("train")
    size = min(batch_size, max(16, len(rows) // 32), len(rows))
    steps, step = min(PEOPLE, len(rows)) // size, 0
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05, fused=True)
    generator = torch.Generator().manual_seed(seed)
    shift = min(2, min(dataset.image_shape[1:]) - 1)
    network.train()
    for epoch in range(epochs):
        for chosen in batch_indices(rows, size, seed, epoch)[:steps]:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * one_cycle(step / (epochs * steps))
            pixels = torch.from_numpy(dataset.images[np.sort(chosen)]).to(device)
            images = augmented(pixels, True, shift, generator).float() / 255
            cell = BLURS[int(torch.randint(len(BLURS), (), generator=generator))]
            _step(
                network, optimizer, blurred(images, cell), _labels(dataset, columns, np.sort(chosen), device), columns
            )
            step += 1
        tick()


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Float[Tensor, "B C H W"],
    labels: Mapping[str, Tensor],
    columns: Sequence[Column],
) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, has_fast_bfloat16()):
        logits = answers(network, normalise(images).contiguous(memory_format=torch.channels_last), columns)
    losses = [
        F.cross_entropy(values, labels[name], ignore_index=MISSING)
        for name, values in logits.items()
        if bool((labels[name] != MISSING).any())
    ]
    if losses:
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()


def _labels(
    dataset: AttributeDataset, columns: Sequence[Column], rows: Int[np.ndarray, " B"], device: torch.device
) -> dict[str, Tensor]:
    return {c.name: torch.from_numpy(dataset.labels[c.name][rows].astype(np.int64)).to(device) for c in columns}


def _read(
    reader: Reader, draw: Draw, role: str, dataset: AttributeDataset, people: int
) -> dict[str, Int[np.ndarray, " n"]]:
    parts = []
    for places in np.array_split(np.arange(people), max(1, people // READ)):
        images = draw(places)
        if tuple(images.shape) != (len(places), *dataset.image_shape) or not _unit(images):
            wanted = f"images {[len(places), *dataset.image_shape]} in [0, 1]"
            raise AuditError(expected(f"draws[{role!r}]", wanted, f"{list(images.shape)} {images.dtype}"))
        parts.append(reader.guesses(images.float()))
    return {column.name: np.concatenate([part[column.name] for part in parts]) for column in reader.columns}


def _unit(images: Tensor) -> bool:
    return images.is_floating_point() and bool((images >= 0).all()) and bool((images <= 1).all())


def _check(dataset: AttributeDataset, columns: Sequence[Column]) -> None:
    problems = Problems(AuditError)
    if not columns:
        problems.add(expected("columns", "at least one column to read", []))
    for column in columns:
        if not (dataset.split_labels("train", column.name) >= 0).any():
            problems.add(f"Nobody in the train split has a label of {column.name!r}: it can't be learned.")
    problems.raise_if_any()
