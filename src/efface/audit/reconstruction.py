"""The reconstruction attack: how much of the person a decoder, trained afresh, draws from the released features.

Source: figure 4 of the paper. The same people are drawn from the original model's features and from the unlearned
model's; the decoders differ in nothing but the features they learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from efface.audit.attackers.training import one_cycle
from efface.audit.features import FeatureSet
from efface.audit.metrics import psnr, ssim
from efface.data.dataset import AttributeDataset
from efface.engine.devices import has_fast_bfloat16
from efface.heads.decoder import ImageDecoder

LEARNING_RATE = 3e-3
PEOPLE = 10_000
"""Most people that a decoder learns from in an epoch: more change little, and time is better spent on attackers."""


@dataclass(frozen=True)
class Reconstruction:
    """What a decoder made of features.

    Attributes:
        psnr: Mean over the audited people, dB.
        ssim: Mean over the audited people.
        pictures: ``[n, C, H, W]`` of the people shown.
        draw: Draws anybody of the split, by place: images ``[B, C, H, W]`` in [0, 1].
    """

    psnr: float
    ssim: float
    pictures: UInt8[np.ndarray, "n C H W"]
    draw: Callable[[Int[np.ndarray, " B"]], Float[Tensor, "B C H W"]]

    def figures(self) -> dict[str, float]:
        """Return both figures, for JSON."""
        return {"psnr": self.psnr, "ssim": self.ssim}


def reconstruct(
    features: FeatureSet,
    dataset: AttributeDataset,
    shown: Int[np.ndarray, " n"],
    *,
    split: str = "test",
    epochs: int = 6,
    batch_size: int = 128,
    width: int = 64,
    seed: int = 0,
    device: torch.device | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Reconstruction:
    """Train a decoder on the training people, and read it on others.

    The loss is the binary cross-entropy of pixels (section 3.2.3 of the paper) plus their mean absolute error, which
    keeps edges.

    Args:
        features: What the encoder released.
        dataset: The images.
        shown: Places within ``split`` of the people to draw.
        split: Who is read.
        epochs: Passes over (at most 10,000 of) the training people.
        batch_size: People per step.
        width: Of the decoder.
        seed: Of weights and order.
        device: Where to train.
        tick: Called after every epoch.
    """
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        decoder = ImageDecoder(features.shape, dataset.image_shape, width)
        decoder = decoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        _train(decoder, features, dataset, epochs, batch_size, device, tick)
    return _read(decoder.eval(), features, dataset, split, shown, device)


def slope(logits: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Return the gradient of the loss by the logits; the loss itself, which nobody reads, would take twice as long."""
    drawn = logits.sigmoid()
    missed = drawn - images
    return drawn.mul_(1 - drawn).mul_(missed.sign()).add_(missed).div_(images.numel())


def choose_people(labels: Int[np.ndarray, " n"], classes: int, count: int, seed: int = 0) -> Int[np.ndarray, " m"]:
    """Return places of people to show, each class in turn from the last: half and half where there are two classes.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, -1])
        >>> labels[choose_people(labels, 2, 4)].tolist()
        [1, 0, 1, 0]
    """
    generator = np.random.default_rng(seed)
    queues = [generator.permutation(np.flatnonzero(labels == z)) for z in reversed(range(classes))]
    rounds = range(max(len(queue) for queue in queues))
    return np.array([queue[i] for i in rounds for queue in queues if i < len(queue)][:count], dtype=np.int64)


def images_of(dataset: AttributeDataset, split: str, shown: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n C H W"]:
    """Return the images of the people shown."""
    return np.array(dataset.images[dataset.rows(split)[shown]])


def captions(dataset: AttributeDataset, split: str, shown: Int[np.ndarray, " n"]) -> list[str]:
    """Return target and attributes of the people shown, as text."""
    columns = (dataset.target, *dataset.attributes)
    labels = {column.name: dataset.split_labels(split, column.name)[shown] for column in columns}

    def value(name: str, classes: tuple[str, ...], person: int) -> str:
        label = labels[name][person]
        return f"{name}: {classes[label] if label >= 0 else 'unknown'}"

    return [" · ".join(value(c.name, c.classes, person) for c in columns) for person in range(len(shown))]


def _train(
    decoder: nn.Module,
    features: FeatureSet,
    dataset: AttributeDataset,
    epochs: int,
    batch_size: int,
    device: torch.device,
    tick: Callable[[], None],
) -> None:
    source, rows = features.features["train"], dataset.rows("train")
    optimizer = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE, weight_decay=0.01, fused=True)
    size = min(batch_size, max(16, len(rows) // 32), len(rows))
    steps, step = min(PEOPLE, len(rows)) // size, 0
    for _ in range(epochs):
        for people in torch.randperm(len(rows))[: steps * size].split(size):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * one_cycle(step / (epochs * steps))
            places = people.sort().values.numpy()
            images = _images(dataset, rows[places]).to(device)
            with torch.autocast(device.type, torch.bfloat16, has_fast_bfloat16()):
                logits = decoder(source.standardised(places).to(device)).float()
            optimizer.zero_grad()
            logits.backward(slope(logits.detach(), images))
            optimizer.step()
            step += 1
        tick()


def _read(
    decoder: nn.Module,
    features: FeatureSet,
    dataset: AttributeDataset,
    split: str,
    shown: Int[np.ndarray, " n"],
    device: torch.device,
) -> Reconstruction:
    rows, source = dataset.rows(split), features.features[split]

    def draw(places: Int[np.ndarray, " B"]) -> Float[Tensor, "B C H W"]:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, has_fast_bfloat16()):
            return decoder(source.standardised(places).to(device)).float().sigmoid().cpu()

    signal, structure = [], []
    for places in np.array_split(np.arange(len(rows)), max(1, len(rows) // 256)):
        images, drawn = _images(dataset, rows[places]), draw(places)
        signal.append(psnr(drawn, images))
        structure.append(ssim(drawn, images))
    pictures = (draw(shown) * 255).round().byte().numpy()
    return Reconstruction(float(torch.cat(signal).mean()), float(torch.cat(structure).mean()), pictures, draw)


def _images(dataset: AttributeDataset, rows: Int[np.ndarray, " B"]) -> Float[Tensor, "B C H W"]:
    return torch.from_numpy(dataset.images[rows]).float() / 255
