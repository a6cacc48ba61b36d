"""Where a classifier of an attribute looks: Grad-CAM, the key areas it gives, and images without them.

Source: Selvaraju et al. (2017), by captum's ``LayerGradCam``; used as in section 4.1 and figure 3 of the paper.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from efface.config import MaskConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.heads import Head, as_map
from efface.shapes import Features, Images, Logits

SIZES = 256
"""Images per batch."""


class AttributeClassifier(nn.Module):
    """Images to logits of an attribute: a model up to the cut, and a head on its features laid out as maps.

    Args:
        extractor: Block from images to features.
        head: Head on the maps.
    """

    def __init__(self, extractor: nn.Module, head: Head):
        super().__init__()
        self.extractor, self.maps, self.head = extractor, _Maps(), head

    def forward(self, images: Images) -> Logits:
        """Return logits ``[B, A]``."""
        logits: Tensor = self.head(self.maps(self.extractor(images)))[0]
        return logits


class _Maps(nn.Module):
    """Lays features out as maps: a layer of its own, since that is what Grad-CAM reads."""

    def forward(self, features: Features) -> Tensor:
        # A copy: the head's first layer must not write into what captum keeps.
        return as_map(features).clone()


def attention(classifier: AttributeClassifier, images: Images) -> Float[Tensor, "B H W"]:
    """Return Grad-CAM of the class that the classifier guesses, as a share of each image's highest value, 0 to 1.

    The guess, not the label: a mask that was chosen by the label would write the label into the image. Its logit above
    the mean of all logits, not the logit alone: only differences tell classes apart. Where nothing in an image speaks
    for its class (a face may be guessed female for want of what speaks for male), Grad-CAM is empty and nothing would
    be masked: there, what speaks against the class is looked at.

    Args:
        classifier: In evaluation mode.
        images: Normalised.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    with torch.no_grad():
        guess = classifier(images).argmax(1)
    found = LayerGradCam(lambda given: _above_the_mean(classifier(given)), classifier.maps).attribute(images, guess)
    speaks_for = found.clamp_min(0)
    found = torch.where(speaks_for.amax((1, 2, 3), keepdim=True) > 0, speaks_for, -found)
    resized = LayerAttribution.interpolate(found, tuple(images.shape[2:]), "bilinear")[:, 0].detach()
    return resized / resized.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _above_the_mean(logits: Logits) -> Logits:
    return logits - logits.mean(1, keepdim=True)


def key_areas(
    classifier: AttributeClassifier, data: AttributeDataset, device: torch.device, threshold: float
) -> Bool[np.ndarray, "N H W"]:
    """Return, for every image of every split, where the attention reaches the threshold."""
    areas = np.zeros((len(data), *data.image_shape[1:]), bool)
    classifier.eval()
    for split in data.splits:
        rows = data.rows(split)
        batches = Batches(data, split, SIZES, device, augment=None)
        for start, batch in zip(range(0, len(rows), SIZES), batches.sequential(), strict=True):
            looked_at = attention(classifier, batch.images)
            # An image without any attention has nothing to remove.
            chosen = (looked_at >= threshold) & (looked_at.amax((1, 2), keepdim=True) > 0.5)
            areas[rows[start : start + SIZES]] = chosen.cpu().numpy()
    return areas


def filled(
    data: AttributeDataset,
    areas: Bool[np.ndarray, "N H W"],
    config: MaskConfig,
    seed: int,
    colour: UInt8[np.ndarray, " C"] | None = None,
) -> UInt8[np.ndarray, "N C H W"]:
    """Return all images with their key areas filled: with the training images' mean colour, black, or noise."""
    # On disk, and gone with the array: the images of a data set need not fit into memory.
    with tempfile.TemporaryFile() as file:
        images = np.memmap(file, np.uint8, "w+", shape=data.images.shape)
    colour = mean_colour(data) if colour is None else colour
    for start in range(0, len(data), SIZES):
        part = np.array(data.images[start : start + SIZES])
        hidden = areas[start : start + SIZES, None]
        images[start : start + SIZES] = np.where(hidden, _fill(part, config.fill, colour, [seed, start]), part)
    return images


def _fill(part: np.ndarray, fill: str, colour: np.ndarray, seed: list[int]) -> UInt8[np.ndarray, "n C H W"]:
    if fill == "noise":
        return np.random.default_rng(seed).integers(0, 256, part.shape, np.uint8)
    return np.zeros((1,), np.uint8) if fill == "black" else colour[None, :, None, None]


def mean_colour(data: AttributeDataset) -> UInt8[np.ndarray, " C"]:
    """Return the mean colour of the training images."""
    rows = data.rows("train")
    sums = sum((data.images[part].astype(np.float64).mean((2, 3)).sum(0) for part in _parts(rows)), 0.0)
    return np.asarray(np.round(sums / len(rows)), np.uint8)


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + SIZES] for start in range(0, len(rows), SIZES))


@dataclass(frozen=True)
class Pictures:
    """Three rows of figure 3, for the same people.

    Attributes:
        images: As they are, ``[N, C, H, W]`` uint8.
        attention: With the attention laid over them, ``[N, 3, H, W]`` uint8.
        masked: Without the key areas, ``[N, C, H, W]`` uint8.
    """

    images: UInt8[np.ndarray, "N C H W"]
    attention: UInt8[np.ndarray, "N 3 H W"]
    masked: UInt8[np.ndarray, "N C H W"]


def overlay(
    images: UInt8[np.ndarray, "N C H W"], looked_at: Float[np.ndarray, "N H W"]
) -> UInt8[np.ndarray, "N 3 H W"]:
    """Lay attention over images in colours from blue (none) over green to red (highest).

    Example:
        >>> picture = overlay(np.zeros((1, 3, 1, 2), np.uint8), np.array([[[0.0, 1.0]]]))
        >>> picture[0, :, 0, 0].tolist(), picture[0, :, 0, 1].tolist()
        ([0, 0, 128], [128, 0, 0])
    """
    centres = np.array([1.0, 0.5, 0.0])[:, None, None]
    colours = np.clip(1.5 - 4 * np.abs(looked_at[:, None] - centres), 0, 1)
    colours = np.where(np.abs(looked_at[:, None] - centres) <= 0.125, 1.0, colours)
    grey = np.broadcast_to(images.astype(np.float64) / 255, (len(images), max(3, images.shape[1]), *images.shape[2:]))
    return np.asarray(np.round(255 * (0.5 * grey[:, :3] + 0.5 * colours)), np.uint8)


__all__ = [
    "AttributeClassifier",
    "Pictures",
    "attention",
    "filled",
    "key_areas",
    "mean_colour",
    "overlay",
]
