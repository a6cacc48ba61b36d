"""Iterative nullspace projection: train a linear classifier, project its directions out, again and again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from efface.heads.eraser import AffineEraser
from efface.methods.posthoc import ROUNDING, PostHocMethod, Stream

ROWS = 4096
"""People whose features are in float64 at a time."""


class Inlp(PostHocMethod):
    """Source: Ravfogel et al. (2020), with logistic regression; directions of all rounds are projected out at once.

    Of attributes that are numbers, cut into classes, each round also takes the direction of ridge regression.
    """

    name: ClassVar[str] = "inlp"
    summary: ClassVar[str] = (
        "iterative nullspace projection (Ravfogel et al.): linear directions, one classifier a round"
    )
    suggested: ClassVar[Mapping[str, object]] = {"variant": "paper"}

    def learn(self, stream: Stream, shape: tuple[int, ...]) -> AffineEraser:
        """Read the train split once, then alternate attributes, and classes of y in the conditional variant."""
        settings = stream.config.eraser
        reader = AffineEraser(shape, settings.dimensions, rank=1).to(stream.device)
        inputs, target, labels, numbers = _gather(stream, reader)
        mean, spread = inputs.mean(0), inputs.std(0) + 1e-6
        standard = ((inputs - mean) / spread).astype(np.float32)
        groups = sorted(set(target.tolist())) if stream.config.conditional_removal else [None]
        basis = np.zeros((0, reader.size), np.float32)
        for turn in range(settings.rounds):
            for name in labels:
                chosen = labels[name] >= 0
                if (group := groups[turn % len(groups)]) is not None:
                    chosen &= target == group
                basis = _extend(basis, standard[chosen], labels[name][chosen], stream.seed)
                if name in numbers:
                    basis = _regress(basis, standard[chosen], numbers[name][chosen])
        layer = AffineEraser(shape, settings.dimensions, rank=len(basis))
        left = torch.from_numpy(np.ascontiguousarray((basis * spread).T.astype(np.float32)))
        right = torch.from_numpy((basis / spread).astype(np.float32))
        layer.fill(left, right, torch.from_numpy(mean.astype(np.float32)))
        return layer


def _gather(
    stream: Stream, reader: AffineEraser
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what an eraser reads ``[n, S]``, the target, the attributes and their numbers, of the train split."""
    rows: list[np.ndarray] = []
    for features, _ in stream:
        rows.append(reader.read(features).float().cpu().numpy())
    data = stream.data
    labels = {column.name: data.split_labels("train", column.name) for column in data.attributes}
    numbers = {name: data.split_numbers("train", name) for name in labels if name in data.numbers}
    return np.concatenate(rows), data.split_labels("train", data.target.name), labels, numbers


def _extend(
    basis: Float[np.ndarray, "R S"], inputs: Float[np.ndarray, "n S"], labels: Int[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, "Q S"]:
    """Train a classifier on what the basis leaves, and add its directions."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(set(labels.tolist())) < 2 or len(basis) >= inputs.shape[1]:
        return basis
    left = inputs - (inputs @ basis.T) @ basis
    classifier = LogisticRegression(C=1.0, max_iter=50, tol=1e-3, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # A round needs a direction, not an optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(left, labels)
    return _orthonormal(basis, classifier.coef_.astype(np.float32))


def _regress(
    basis: Float[np.ndarray, "R S"], inputs: Float[np.ndarray, "n S"], values: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "Q S"]:
    """Regress numbers on what the basis leaves, and add the direction."""
    known = ~np.isnan(values)
    told = values[known]
    if len(basis) >= inputs.shape[1] or len(told) < 2 or told.std() <= ROUNDING * np.abs(told).max():
        return basis
    left = inputs[known] - (inputs[known] @ basis.T) @ basis
    mean, scaled = left.mean(0), (told - told.mean()) / told.std()
    # Ridge regression with the penalty of the classifier's C = 1, that of one person; in float64, for many features go
    # together.
    products, wanted = np.eye(left.shape[1]), np.zeros(left.shape[1])
    for start in range(0, len(left), ROWS):
        some = (left[start : start + ROWS] - mean).astype(np.float64)
        products += some.T @ some
        wanted += some.T @ scaled[start : start + ROWS]
    return _orthonormal(basis, np.linalg.solve(products, wanted).astype(np.float32)[None])


def _orthonormal(basis: Float[np.ndarray, "R S"], directions: Float[np.ndarray, "K S"]) -> Float[np.ndarray, "Q S"]:
    """Return the basis with the directions added, as far as they are new."""
    kept = list(basis)
    for direction in directions:
        length = np.linalg.norm(direction)
        new = direction.astype(np.float64)
        for _ in range(2):  # twice is enough
            for row in kept:
                new = new - (new @ row) * row
        if length > 0 and np.linalg.norm(new) > 1e-3 * length:
            kept.append((new / np.linalg.norm(new)).astype(np.float32))
    return np.stack(kept) if kept else basis
