"""Floors: what is guessed of an attribute without the features. Exact, on the labels of the audited people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from efface.errors import AuditError


@dataclass(frozen=True)
class Floors:
    """Accuracy of three blind guessers, as fractions.

    Attributes:
        chance: 1/A.
        majority: max_z p(z), for one who knows how common each class is.
        label: Σ_y p(y) max_z p(z|y), for one who knows the main-task label y of each person.
    """

    chance: float
    majority: float
    label: float


def joint_table(
    target: Int[np.ndarray, " n"], attribute: Int[np.ndarray, " n"], n_classes: int
) -> Float[np.ndarray, "Y A"]:
    """Return p(y, z); people with a missing y (-1) make a row of their own, the first.

    Raises:
        AuditError: There is nobody.
    """
    if not len(attribute):
        raise AuditError("Nobody in this split has a label of this attribute: nothing can be audited.")
    shifted = target + 1
    cells = np.bincount(shifted * n_classes + attribute, minlength=n_classes * (int(shifted.max()) + 1))
    return cells.reshape(-1, n_classes) / len(attribute)


def floors(target: Int[np.ndarray, " n"], attribute: Int[np.ndarray, " n"], n_classes: int) -> Floors:
    """Return the floors on people whose attribute is known.

    Source: THEORY, "What the numbers can be at best".

    Example:
        >>> z = np.repeat(np.arange(10), 100)  # CIFAR-10: ten classes, six of them living
        >>> round(floors((z < 6).astype(int), z, 10).label, 2)
        0.2
    """
    joint = joint_table(target, attribute, n_classes)
    return Floors(1 / n_classes, float(joint.sum(0).max()), float(joint.max(1).sum()))


def label_guess(
    target: Int[np.ndarray, " n"], attribute: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, " n"]:
    """Return each person's most likely class given y: the guesses whose accuracy is the label floor."""
    joint = joint_table(target, attribute, n_classes)
    return joint.argmax(1)[target + 1]


def learned_guess(
    known: Int[np.ndarray, " m"], attribute: Int[np.ndarray, " m"], asked: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, " n"]:
    """Return what is most frequent among training people of whom the same is known; else what is most frequent of all.

    Unlike ``label_guess`` it has not seen the labels that are to be guessed: anyone can reach its accuracy.

    Args:
        known: Of the training people, from 0: such as the model's own answer.
        attribute: Theirs; nobody's is missing.
        asked: Of the people whose attribute is guessed.
        n_classes: A.

    Example:
        >>> learned_guess(np.array([0, 0, 1]), np.array([2, 2, 1]), np.array([1, 0, 5]), 3)
        array([1, 2, 2])
    """
    counts = np.zeros((max(int(known.max()), int(asked.max())) + 1, n_classes))
    np.add.at(counts, (known, attribute), 1)
    rule = np.where(counts.sum(1) > 0, counts.argmax(1), counts.sum(0).argmax())
    return rule[asked]


def entropy(joint: Float[np.ndarray, "Y A"]) -> float:
    """Return H(z) in bits.

    Example:
        >>> entropy(np.full((2, 2), 0.25))
        1.0
    """
    return _bits(joint.sum(0))


def conditional_entropy(joint: Float[np.ndarray, "Y A"]) -> float:
    """Return H(z|y) in bits: what is left to learn of z for one who knows y.

    Example:
        >>> conditional_entropy(np.array([[0.5, 0.0], [0.0, 0.5]]))
        0.0
    """
    return _bits(joint.reshape(-1)) - _bits(joint.sum(1))


def _bits(p: Float[np.ndarray, " K"]) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum()) + 0.0
