"""Exact information of small discrete distributions, by enumeration: the yardstick of every claim in docs/theory.md.

float64 NumPy, no sampling, all values in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from efface.errors import DataError, Problems, ShapeError, did_you_mean, expected

Names: TypeAlias = str | Sequence[str]
"""One variable or several taken jointly; ``()`` is none."""

TOLERANCE = 1e-9
"""How far the sum of probabilities may be from 1."""


class Joint:
    """A joint distribution of named discrete variables.

    Args:
        p: Probabilities, one axis per variable.
        names: Names of the axes.

    Raises:
        ShapeError: The names don't fit the axes.
        DataError: The entries are not a probability distribution.

    Example:
        >>> from efface.information import bits
        >>> noisy = Joint(np.array([[0.4, 0.1], [0.1, 0.4]]), ("z", "h"))
        >>> round(bits(noisy.information("h", "z")), 4)
        0.2781
        >>> round(noisy.best_accuracy("z", given="h"), 4)
        0.8
    """

    def __init__(self, p: Float[np.ndarray, "*sizes"], names: Sequence[str]):
        self.p = np.asarray(p, dtype=np.float64)
        self.names = tuple(names)
        _check_axes(self.p, self.names)
        _check_probabilities(self.p)

    @classmethod
    def independent(cls, **marginals: Sequence[float] | Float[np.ndarray, " _"]) -> Joint:
        """Return the product of the named marginal distributions.

        Example:
            >>> Joint.independent(y=[0.5, 0.5], z=[0.2, 0.8]).information("y", "z") < 1e-12
            True
        """
        p = np.ones(())
        for values in marginals.values():
            p = np.multiply.outer(p, np.asarray(values, dtype=np.float64))
        return cls(p, tuple(marginals))

    def marginal(self, names: Names) -> Joint:
        """Return the joint distribution of ``names``, axes in that order."""
        kept = self._axes(names)
        summed = self.p.sum(axis=tuple(i for i in range(self.p.ndim) if i not in kept))
        order = np.argsort(np.argsort(kept))
        return Joint(summed.transpose(order), [self.names[i] for i in kept])

    def with_channel(self, name: str, given: Names, channel: Float[np.ndarray, "*sizes K"]) -> Joint:
        """Return the joint with one more variable, drawn from ``channel`` given the variables ``given`` alone.

        Everything else is independent of the new variable given those: a Markov chain, as x → h.

        Args:
            name: Name of the new variable.
            given: What the channel reads.
            channel: p(new | given), shape ``[*sizes of given, K]``; each row sums to 1.

        Raises:
            ShapeError: The channel's shape does not fit ``given``.
            DataError: A row is not a distribution, or the name is taken.
        """
        axes = self._axes(given)
        channel = np.asarray(channel, dtype=np.float64)
        sizes = tuple(self.p.shape[i] for i in axes)
        if channel.shape[:-1] != sizes:
            raise ShapeError(expected("channel", f"of shape {sizes} and one axis for {name!r}", channel.shape))
        if (channel < 0).any() or not np.allclose(channel.sum(-1), 1, atol=TOLERANCE, rtol=0):
            raise DataError(expected("channel", "non-negative with rows that sum to 1", "others"))
        # Lay the channel's axes along the joint's, size 1 where it reads nothing; the new variable comes last.
        order = [*np.argsort(axes), len(axes)]
        shape = [self.p.shape[i] if i in axes else 1 for i in range(self.p.ndim)]
        aligned = channel.transpose(order).reshape(*shape, channel.shape[-1])
        return Joint(self.p[..., None] * aligned, (*self.names, name))

    def with_map(self, name: str, given: Names, values: np.ndarray) -> Joint:
        """Return the joint with one more variable that is a function of ``given``.

        Args:
            name: Name of the new variable.
            given: What the function reads.
            values: Non-negative integers, one per joint value of ``given``, shape ``[*sizes of given]``.

        Example:
            >>> from efface.information import bits
            >>> coins = Joint.independent(z=[0.5, 0.5], r=[0.5, 0.5])
            >>> pad = coins.with_map("h", ("z", "r"), np.array([[0, 1], [1, 0]]))
            >>> [round(bits(pad.information("h", v)), 6) for v in ("z", "r", ("z", "r"))]
            [0.0, 0.0, 1.0]
        """
        values = np.asarray(values)
        if not np.issubdtype(values.dtype, np.integer) or (values < 0).any():
            raise DataError(expected("values", "non-negative integers", values.dtype.name))
        return self.with_channel(name, given, np.eye(int(values.max()) + 1)[values])

    def entropy(self, names: Names, given: Names = ()) -> float:
        """Return H(names | given) in nats."""
        both = _together(names, given)
        return self._entropy(both) - self._entropy(_together(given))

    def information(self, first: Names, second: Names, given: Names = ()) -> float:
        """Return I(first ; second | given) in nats.

        Source:
            I(a;b|c) = H(a,c) + H(b,c) − H(a,b,c) − H(c).
        """
        return (
            self._entropy(_together(first, given))
            + self._entropy(_together(second, given))
            - self._entropy(_together(first, second, given))
            - self._entropy(_together(given))
        )

    def best_accuracy(self, guessed: str, given: Names = ()) -> float:
        """Return Σ_c max_z p(c, z): the accuracy that no guess of one variable from others can exceed, a fraction.

        ``given=()`` is the majority's share; ``given`` the target is the label floor.
        """
        others = tuple(name for name in _together(given) if name != guessed)
        if len(others) < len(_together(given)):
            return 1.0
        return float(self.marginal((*others, guessed)).p.max(axis=-1).sum())

    def _axes(self, names: Names) -> list[int]:
        problems = Problems(DataError)
        wanted = _together(names)
        for name in wanted:
            if name not in self.names:
                problems.add(f"No variable {name!r} in this distribution. {did_you_mean(name, self.names)}")
        problems.raise_if_any()
        return [self.names.index(name) for name in wanted]

    def _entropy(self, names: tuple[str, ...]) -> float:
        kept = self._axes(names)
        p = self.p.sum(axis=tuple(i for i in range(self.p.ndim) if i not in kept))
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())


def _together(*groups: Names) -> tuple[str, ...]:
    """Flatten groups of names, each name once."""
    flat = (name for group in groups for name in ((group,) if isinstance(group, str) else group))
    return tuple(dict.fromkeys(flat))


def _check_axes(p: np.ndarray, names: tuple[str, ...]) -> None:
    problems = Problems(ShapeError)
    if p.ndim != len(names):
        problems.add(expected("names", f"one name for each of the {p.ndim} axes of `p`", names))
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.add(expected("names", "distinct", name, "It is given more than once."))
    problems.raise_if_any()


def _check_probabilities(p: np.ndarray) -> None:
    if not np.isfinite(p).all() or (p < 0).any():
        raise DataError(expected("p", "finite and non-negative", float(p.min())))
    if abs(p.sum() - 1) > TOLERANCE:
        raise DataError(expected("p", "probabilities that sum to 1", float(p.sum())))
