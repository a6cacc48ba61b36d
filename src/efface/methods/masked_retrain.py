"""Masked retrain: baseline 2 of the paper. The area that gives the attribute away is removed from every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from efface.config import EngineConfig, MaskConfig, MethodConfig
from efface.data.dataset import AttributeDataset
from efface.engine import History, Job, Part, fit
from efface.engine.seeds import derive, seed_everything
from efface.errors import CheckpointError, ConfigError, expected
from efface.heads import build_head, map_shape
from efface.methods.attention import AttributeClassifier, Pictures, attention, filled, key_areas, mean_colour, overlay
from efface.methods.base import Method, UnlearnedModel
from efface.methods.fresh import fresh_copy, reset
from efface.methods.layers import both, example_batch, feature_shapes, ordered
from efface.methods.original import Original
from efface.models import split
from efface.objectives.attribute import AttributeObjective

AREAS = "masks.npz"
"""File of the key areas in the run folder."""


class MaskedRetrain(Method):
    """Grad-CAM of an attribute classifier finds the key area; a fresh model is trained on what remains."""

    name: ClassVar[str] = "masked_retrain"
    summary: ClassVar[str] = "baseline 2: Grad-CAM finds the attribute's area, a fresh model learns on masked images"
    sections: ClassVar[tuple[str, ...]] = ("mask",)

    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Train a classifier per attribute, mask all images, reset the model and train it as the original.

        The result's ``data`` are the masked images: what the model is meant for.

        Raises:
            ConfigError: Features at the cut have no positions to look at.
            CutError: The model can't be cut there.
        """
        cuts = ordered(model, at)
        areas, history = self.find_areas(model, data, cuts[0], config, engine, job)
        masked = masked_data(data, areas, config.mask, job.seed)
        if job.folder is not None:
            save_areas(job.folder, areas)
        reset(model, derive(job.seed, job.model, "masked"))
        result = Original().fit(model, masked, cuts, config, _same_budget(engine), job)
        return UnlearnedModel(model, cuts, self.name, both(history, result.history), data=masked)

    def find_areas(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: str,
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> tuple[Bool[np.ndarray, "N H W"], History]:
        """Return where any of the attributes is looked for, and the history of the classifiers' training."""
        areas, history = np.zeros((len(data), *data.image_shape[1:]), bool), History(0.0, 0)
        for column in data.attributes:
            classifier, trained = train_classifier(model, data, at, column.name, config, engine, job)
            device = next(classifier.parameters()).device
            areas |= key_areas(classifier, data, device, config.mask.threshold)
            history = both(history, trained)
        return areas, history


def train_classifier(
    model: nn.Module,
    data: AttributeDataset,
    at: str,
    attribute: str,
    config: MethodConfig,
    engine: EngineConfig,
    job: Job,
) -> tuple[AttributeClassifier, History]:
    """Train a classifier of an attribute: a fresh copy of the model up to the cut, and a convolutional head.

    Raises:
        ConfigError: Features at the cut have no positions to look at.
    """
    named = replace(job, model=f"{job.model}-mask-{attribute}")
    copy = fresh_copy(model, derive(job.seed, named.model))
    example = example_batch(data)
    copy.to("cpu")
    cut = split(copy, at, example.images)
    shape = feature_shapes(cut, example)[0]
    if map_shape(shape)[1:] == (1, 1):
        hint = "Grad-CAM needs positions: cut at an earlier layer."
        raise ConfigError(expected("model.at", "a layer whose features are maps or tokens", f"{at}: {shape}", hint))
    seed_everything(job.seed, named.model, "head")
    classes = {column.name: column.n_classes for column in data.attributes}[attribute]
    head = build_head("conv", map_shape(shape), classes, config.head_width)
    classifier = AttributeClassifier(cut.blocks[0], head)
    part = Part(classifier, AttributeObjective(attribute))
    return classifier, fit([part], data, _same_budget(engine), named)


def masked_data(
    data: AttributeDataset, areas: Bool[np.ndarray, "N H W"], config: MaskConfig, seed: int
) -> AttributeDataset:
    """Return the data set with the key areas of all images filled."""
    mark = derive(int(np.packbits(areas).sum()), data.fingerprint, config.fill, config.threshold.hex(), seed)
    images = filled(data, areas, config, seed)
    return replace(data, images=images, fingerprint=f"{data.fingerprint}-masked-{mark:016x}")


def save_areas(folder: Path, areas: Bool[np.ndarray, "N H W"]) -> None:
    """Write the key areas into a run folder, one bit per pixel."""
    partial = folder / f".{AREAS}.tmp.npz"
    np.savez_compressed(partial, areas=np.packbits(areas), shape=np.array(areas.shape))
    partial.replace(folder / AREAS)


def load_areas(folder: Path) -> Bool[np.ndarray, "N H W"] | None:
    """Read the key areas of a run; None where it has none.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / AREAS
    if not path.exists():
        return None
    try:
        with np.load(path) as found:
            shape = tuple(int(side) for side in found["shape"])
            return np.unpackbits(found["areas"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}.") from None


def released_data(data: AttributeDataset, folder: Path | None, config: MethodConfig, seed: int) -> AttributeDataset:
    """Return the images that a finished run's model is meant for: masked ones where the run masked them."""
    areas = load_areas(folder) if folder is not None and config.name == MaskedRetrain.name else None
    return data if areas is None else masked_data(data, areas, config.mask, seed)


def figure_three(
    classifier: AttributeClassifier, data: AttributeDataset, config: MaskConfig, rows: Sequence[int], seed: int = 0
) -> Pictures:
    """Return the pictures of figure 3 for some rows of the data: images, attention, images without the key area."""
    from efface.data.batches import MEAN, STD

    device = next(classifier.parameters()).device
    images = np.array(data.images[np.asarray(rows)])
    batch = (torch.from_numpy(images).to(device).float() / 255 - MEAN) / STD
    classifier.eval()
    looked_at = attention(classifier, batch).cpu().numpy()
    labels = {name: values[np.asarray(rows)] for name, values in data.labels.items()}
    few = replace(data, images=images, labels=labels, splits={name: np.arange(len(rows)) for name in data.splits})
    # The colour of the training images, as in the masked data set: not that of the people shown.
    masked = filled(few, looked_at >= config.threshold, config, seed, mean_colour(data))
    return Pictures(images, overlay(images, looked_at), masked)


def _same_budget(engine: EngineConfig) -> EngineConfig:
    """Return settings under which the original's training takes the epochs and the rate of the unlearning run."""
    return engine.model_copy(update={"original_epochs": None, "original_lr": None})


__all__ = [
    "AREAS",
    "MaskedRetrain",
    "figure_three",
    "load_areas",
    "masked_data",
    "released_data",
    "save_areas",
    "train_classifier",
]
