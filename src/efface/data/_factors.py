"""The factors of drawn faces, and the exact joint distribution of any two of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isfinite
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from efface.data._traits import Stream
from efface.errors import DataError, Problems, did_you_mean, expected

FACTORS: dict[str, tuple[str, ...]] = {
    "smiling": ("neutral", "smiling"),
    "glasses": ("none", "glasses"),
    "skin_tone": ("light", "medium", "brown", "dark"),
    "hair_colour": ("black", "brown", "blond", "red"),
    "hat": ("none", "hat"),
    "age_lines": ("none", "lined"),
}
"""The factors and their classes, in the order of the class indices."""

Correlation: TypeAlias = Mapping[str, float | int]
"""Linked pairs of factors, ``{"smiling:glasses": 0.6}``."""

Links: TypeAlias = dict[str, dict[str, float]]
"""Correlation of each factor with its neighbours, in both directions."""


def joint(correlation: Correlation | None, target: str, attribute: str) -> Float64[np.ndarray, "Y A"]:
    """Return the exact joint distribution p(target, attribute); both marginals are uniform.

    A linked pair has p = ρ·M + (1−ρ)/(Y·A), where M matches the classes in order: the share of [0, 1] common to the
    y-th of Y and the z-th of A equal parts (the diagonal if Y = A). For ρ < 0 (two binary factors) M is reversed and
    weighted by |ρ|. Factors linked through others follow the Markov chain along the path between them.

    Args:
        correlation: ``{"factor:factor": ρ}``, as for ``draw_labels``.
        target: A factor, Y classes.
        attribute: A factor, A classes.

    Raises:
        DataError: A name is not a factor's, or the correlation is not valid.

    Example:
        >>> joint({"smiling:glasses": 0.6}, "smiling", "glasses")
        array([[0.4, 0.1],
               [0.1, 0.4]])
    """
    problems = Problems(DataError)
    for argument, name in (("target", target), ("attribute", attribute)):
        if name not in FACTORS:
            problems.add(expected(argument, "a factor of the drawn faces", name, did_you_mean(name, FACTORS)))
    problems.raise_if_any()
    links = parse_correlation(correlation)
    path = _path(links, target, attribute)
    if path is None:
        return _uniform(target, attribute)
    transition = np.eye(len(FACTORS[target]))
    for here, there in pairwise(path):
        transition = transition @ _given(links, here, there)
    return transition / len(FACTORS[target])


def draw_labels(n: int, seed: int = 0, correlation: Correlation | None = None) -> dict[str, Int64[np.ndarray, " N"]]:
    """Draw class indices of all factors, uniform, and independent unless linked.

    Row i depends on the seed and i only: fewer rows are the first of more.

    Args:
        n: Number of faces.
        seed: Not negative.
        correlation: ``{"smiling:glasses": 0.6}`` links pairs of factors (see ``joint``); pairs may share a factor, but
            must not close a circle. ρ is between 0 and 1; two binary factors may go down to −1.

    Raises:
        DataError: The number, the seed or the correlation is not valid; all problems at once.

    Example:
        >>> labels = draw_labels(1000, seed=0, correlation={"smiling:glasses": 1.0})
        >>> bool((labels["smiling"] == labels["glasses"]).all())
        True
    """
    problems = Problems(DataError)
    check_whole(problems, "n", n, 1)
    check_whole(problems, "seed", seed, 0)
    links = _parse(correlation, problems)
    problems.raise_if_any()
    uniform = Stream(seed, "labels").uniform(n, len(FACTORS))
    columns = dict(zip(FACTORS, uniform.T, strict=True))
    labels: dict[str, Int64[np.ndarray, " N"]] = {}
    for root, classes in FACTORS.items():
        if root in labels:
            continue
        labels[root] = (columns[root] * len(classes)).astype(np.int64)
        waiting = [root]
        while waiting:
            parent = waiting.pop()
            for child in links[parent].keys() - labels.keys():
                steps = _given(links, parent, child).cumsum(1)[:, :-1]
                labels[child] = (columns[child][:, None] >= steps[labels[parent]]).sum(1)
                waiting.append(child)
    return {name: labels[name] for name in FACTORS}


def parse_correlation(correlation: Correlation | None) -> Links:
    """Return the neighbours of each factor; raise DataError with all problems at once."""
    problems = Problems(DataError)
    links = _parse(correlation, problems)
    problems.raise_if_any()
    return links


def check_whole(problems: Problems, argument: str, value: object, least: int) -> bool:
    """Note a problem unless ``value`` is an integer of at least ``least``."""
    good = isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)
    if not good:
        problems.add(expected(argument, f"an integer of at least {least}", value))
    return good


def _parse(correlation: Correlation | None, problems: Problems) -> Links:
    """Collect the valid links, and note what is wrong with the others."""
    links: Links = {name: {} for name in FACTORS}
    if correlation is not None and not isinstance(correlation, Mapping):
        problems.add(expected("correlation", "a mapping such as {'smiling:glasses': 0.6}", correlation))
        return links
    for key, rho in (correlation or {}).items():
        pair = _pair(key, problems)
        rho_valid = _check_rho(key, rho, pair, problems)
        if pair is None:
            continue
        first, second = pair
        if _path(links, first, second) is not None:
            problems.add(
                f"Correlation {key!r} closes a circle: {first!r} and {second!r} are linked already. "
                f"Leave out one of the pairs of {' – '.join(_path(links, first, second) or ())}."
            )
        elif rho_valid:
            links[first][second] = links[second][first] = float(rho)
    return links


def _pair(key: object, problems: Problems) -> tuple[str, str] | None:
    """Return the two factors that a key names."""
    parts = [part.strip() for part in key.split(":")] if isinstance(key, str) else []
    if len(parts) != 2:
        problems.add(expected("correlation", "keyed by 'factor:factor'", key, "For example: 'smiling:glasses'."))
        return None
    unknown = [part for part in parts if part not in FACTORS]
    for part in unknown:
        problems.add(f"Correlation {key!r}: no factor {part!r}. {did_you_mean(part, FACTORS)}")
    if not unknown and parts[0] == parts[1]:
        problems.add(f"Correlation {key!r} links a factor with itself; name two factors.")
    return None if unknown or parts[0] == parts[1] else (parts[0], parts[1])


def _check_rho(key: object, rho: object, pair: tuple[str, str] | None, problems: Problems) -> bool:
    """Tell whether ρ is in range, and note a problem if not."""
    binary = pair is not None and all(len(FACTORS[name]) == 2 for name in pair)
    lowest = -1 if binary or pair is None else 0
    number = isinstance(rho, int | float | np.number) and not isinstance(rho, bool) and isfinite(rho)
    if number and lowest <= rho <= 1:  # type: ignore[operator]
        return True
    hint = "" if binary or pair is None else "Only two binary factors can have a negative one."
    problems.add(expected(f"correlation[{key!r}]", f"a number from {lowest} to 1", rho, hint))
    return False


def _path(links: Links, start: str, end: str) -> list[str] | None:
    """Return the factors from ``start`` to ``end``; None if they are not linked. A forest has at most one path."""
    stack = [[start]]
    while stack:
        path = stack.pop()
        if path[-1] == end:
            return path
        stack += [[*path, name] for name in links[path[-1]] if name not in path]
    return None


def _given(links: Links, known: str, other: str) -> Float64[np.ndarray, "Y A"]:
    """Return p(other | known) of two neighbours."""
    rho = links[known][other]
    y, a = len(FACTORS[known]), len(FACTORS[other])
    start, stop = np.arange(y)[:, None] / y, np.arange(1, y + 1)[:, None] / y
    matched = np.maximum(np.minimum(stop, np.arange(1, a + 1) / a) - np.maximum(start, np.arange(a) / a), 0) * y
    matched = matched[:, ::-1] if rho < 0 else matched
    return abs(rho) * matched + (1 - abs(rho)) / a


def _uniform(target: str, attribute: str) -> Float64[np.ndarray, "Y A"]:
    """Return the joint distribution of independent factors."""
    shape = len(FACTORS[target]), len(FACTORS[attribute])
    return np.full(shape, 1 / (shape[0] * shape[1]))
