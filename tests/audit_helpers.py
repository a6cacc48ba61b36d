"""Drawn features with a known answer, and a tiny model and data set, for the audit's tests."""

import numpy as np
import torch
from torch import nn

from efface.audit.attackers import FeatureView
from efface.audit.features import FeatureSet
from efface.audit.store import stored_from_arrays
from efface.data.dataset import AttributeDataset, build_schema
from efface.data.schema import Column

SIZES = (1200, 500, 1500)


def parts(sizes=SIZES):
    ends = np.cumsum([0, *sizes])
    names = ("train", "validation", "test")
    return {name: slice(a, b) for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}


def views(features, z, classes, sizes=SIZES):
    stored = stored_from_arrays({name: features[rows].astype(np.float32) for name, rows in parts(sizes).items()})
    return {name: FeatureView.of(stored[name], z[rows], classes) for name, rows in parts(sizes).items()}


def feature_set(features, y, z, sizes=SIZES, logits=None):
    """Features as if extracted from a model whose own answer is y, unless logits are given."""
    rows = parts(sizes)
    logits = np.eye(int(y.max()) + 1)[y.clip(0)] * 10 if logits is None else logits
    return FeatureSet(
        stored_from_arrays({name: features[r].astype(np.float32) for name, r in rows.items()}),
        {name: {"y": y[r], "z": z[r]} for name, r in rows.items()},
        {name: torch.from_numpy(logits[r]).float() for name, r in rows.items()},
    )


def column(classes, name="z"):
    return Column(name, tuple(f"{name}{i}" for i in range(classes)))


def dataset(n=360, size=8, seed=0, missing=0, fingerprint="drawn"):
    """Images in which y brightens the left half and z the upper half."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, n), generator.integers(0, 3, n)
    images = generator.integers(0, 80, (n, 3, size, size))
    images[:, :, :, : size // 2] += 80 * y[:, None, None, None]
    images[:, 1, : size // 2] += 40 * z[:, None, None]
    z[generator.permutation(n)[:missing]] = -1
    third = n // 3
    splits = {s: np.arange(i * third, (i + 1) * third) for i, s in enumerate(("train", "validation", "test"))}
    classes = {"y": ("dark", "bright"), "z": ("low", "middle", "high")}
    labels = {"y": y, "z": z}
    schema = build_schema(labels, classes, splits, "y", ["z"])
    return AttributeDataset(images.astype(np.uint8), labels, splits, schema, "drawn", fingerprint)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
