"""Attributes that are numbers (ages, scores), read as numbers: how much of their variance released features explain.

Attackers guess classes, and training removes classes, that numbers were cut into (``data.derive``). Within a class the
number may still be told; regressors say how much of it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import Resampling, paired_interval
from efface.audit.probe import PEOPLE, tools
from efface.data.schema import Column
from efface.errors import AuditError

RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Penalties beside the mean squared error, in units of the features' variance."""
AXES = 64
"""Principal components that trees read."""
FEWEST = 30
"""People of a split with a number, below which nothing is told."""
REGRESSORS = ("ridge", "mlp", "trees")

Guess = Float64[np.ndarray, " n"]
Table = Float32[np.ndarray, "n K"]


@dataclass(frozen=True)
class Explained:
    """Share of the variance of a number that is explained (R²), on the people read.

    Attributes:
        attribute: The column that was cut from it.
        n: People read whose number is known.
        value: By the regressor that validation picks, on the audited model's features. At most 1; below 0 where it
            errs more than the mean.
        original: On the original's features; None: there is none.
        target: By who knows the main task's label alone, and guesses the training people's mean.
        excess: (value − target) / (original − target), clipped at 0; None where the original explains no more than the
            target does, by more than noise.
        regressors: R² of each on the audited model's features.
        picked: By validation, on the audited model and on the original.
    """

    attribute: str
    n: int
    value: Figure
    original: Figure | None
    target: Figure | None
    excess: Figure | None
    regressors: Mapping[str, float]
    picked: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        figures = {name: getattr(self, name) for name in ("value", "original", "target", "excess")}
        told = {name: None if one is None else one.to_dict() for name, one in figures.items()}
        return {
            "attribute": self.attribute,
            "n": self.n,
            **told,
            "regressors": dict(self.regressors),
            "picked": list(self.picked),
        }


def explain(
    sets: Mapping[str, FeatureSet],
    column: Column,
    target: str | None,
    split: str = "test",
    how: Resampling | None = None,
    seed: int = 0,
    tick: Callable[[str, int], None] = lambda *_: None,
) -> Explained:
    """Regress an attribute's numbers on features, before and after.

    Args:
        sets: ``model`` and perhaps ``original``; usually condensed (``probe.condense``).
        column: An attribute that has ``numbers`` in the feature sets.
        target: The main task's column, or None.
        split: The people read.
        how: Confidence and resamples.
        seed: Of people, weights and trees.
        tick: Called after each regressor; ``len(REGRESSORS)`` steps for each feature set.

    Raises:
        AuditError: Fewer than 30 people of a split have a number.
    """
    how = how or Resampling()
    read = {role: _read(features, column.name, split, seed, tick) for role, features in sets.items()}
    rows, truth = _known(sets["model"], column.name, split)
    errors = [np.square(truth - truth.mean())]
    errors += [np.square(truth - read[role].guess) for role in read]
    by_target = None if target is None else _by_target(sets["model"], column.name, target, split)
    errors += [] if by_target is None else [np.square(truth - by_target)]
    place = {role: number for number, role in enumerate((*read, *(() if by_target is None else ("target",))), 1)}
    table = np.stack(errors, 1)

    def figure(name: str) -> Figure | None:
        if name not in place:
            return None
        one = place[name]

        def share(means: Float[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
            return 1 - means[:, one] / np.maximum(means[:, 0], 1e-300)

        return Figure(float(share(table.mean(0)[None])[0]), paired_interval(table, share, *tools(how)))

    value = figure("model")
    assert value is not None
    return Explained(
        column.name,
        len(rows),
        value,
        figure("original"),
        figure("target"),
        _excess(table, place, how),
        read["model"].scores,
        tuple(read[role].name for role in ("model", "original") if role in read),
    )


@dataclass(frozen=True)
class _Regressed:
    name: str
    guess: Guess
    scores: Mapping[str, float]


def _read(features: FeatureSet, name: str, split: str, seed: int, tick: Callable[[str, int], None]) -> _Regressed:
    """Fit every regressor on the training people; validation picks one."""
    tables, truths = {}, {}
    for part in ("train", "validation", split):
        rows, truths[part] = _known(features, name, part)
        if len(rows) < FEWEST:
            raise AuditError(f"{len(rows)} people of the {part} split have a number of {name!r}: too few to regress.")
        if part == "train" and len(rows) > PEOPLE:
            kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[:PEOPLE])
            rows, truths[part] = rows[kept], truths[part][kept]
        tables[part] = features.features[part].standardised(rows).flatten(1).numpy()
    mean, spread = truths["train"].mean(), truths["train"].std() or 1.0
    scaled = (truths["train"] - mean) / spread
    wanted = (truths["validation"] - mean) / spread
    scores, best = {}, None
    for regressor, fit in (("ridge", _ridge), ("mlp", _mlp), ("trees", _trees)):
        tick(f"{regressor} regresses {name}", 1)
        held_out, guesses = _judged(fit(tables["train"], scaled, seed), tables["validation"], wanted)
        guess = mean + spread * guesses(tables[split])
        scores[regressor] = _share(truths[split], guess)
        if best is None or held_out > best[0]:
            best = held_out, regressor, guess
    assert best is not None
    return _Regressed(best[1], best[2], scores)


def _judged(
    candidates: Iterator[Callable[[Table], Guess]], table: Table, wanted: Guess
) -> tuple[float, Callable[[Table], Guess]]:
    """Return the candidate that validation prefers, with its R² there."""
    scored = [(_share(wanted, candidate(table)), candidate) for candidate in candidates]
    return max(scored, key=lambda pair: pair[0])


def _share(truth: Guess, guess: Guess) -> float:
    return float(1 - np.square(truth - guess).mean() / max(truth.var(), 1e-300))


def _ridge(table: Table, wanted: Guess, _seed: int) -> Iterator[Callable[[Table], Guess]]:
    """Linear regression in float64, at every penalty."""
    inputs = table.astype(np.float64)
    centre = inputs.mean(0)
    inputs -= centre
    values, axes = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    projected = axes.T @ (inputs.T @ wanted / len(inputs))
    for ridge in RIDGES:
        weight = axes @ (projected / (np.maximum(values, 0) + ridge * max(values.mean(), 1e-12)))
        bias = wanted.mean() - centre @ weight
        yield lambda rows, weight=weight, bias=bias: rows.astype(np.float64) @ weight + bias  # type: ignore[misc]


def _mlp(table: Table, wanted: Guess, seed: int) -> Iterator[Callable[[Table], Guess]]:
    """A perceptron of one hidden layer; a tenth of the training people stops it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    settings = {"alpha": 1e-2, "early_stopping": True, "max_iter": 40, "n_iter_no_change": 5}
    fitted = MLPRegressor(hidden_layer_sizes=(64,), random_state=seed, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted.fit(table, wanted.astype(np.float32))
    yield lambda rows: fitted.predict(rows).astype(np.float64)


def _trees(table: Table, wanted: Guess, seed: int) -> Iterator[Callable[[Table], Guess]]:
    """Boosted trees on principal components; a tenth of the training people stops them."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    centre = table.mean(0)
    axes = np.linalg.eigh(np.cov((table - centre).T).reshape(table.shape[1], -1))[1][:, ::-1][:, :AXES]
    fitted = HistGradientBoostingRegressor(early_stopping=True, max_iter=200, max_leaf_nodes=15, random_state=seed)
    fitted.fit((table - centre) @ axes, wanted)
    yield lambda rows: fitted.predict((rows - centre) @ axes)


def _known(features: FeatureSet, name: str, split: str) -> tuple[Int[np.ndarray, " n"], Guess]:
    """Return the places of people whose number is known, and the numbers."""
    values = np.asarray(features.numbers[split][name], np.float64)
    rows = np.flatnonzero(~np.isnan(values))
    return rows, values[rows]


def _by_target(features: FeatureSet, name: str, target: str, split: str) -> Guess:
    """The mean of the training people of the same y."""
    rows, values = _known(features, name, "train")
    y, asked = features.labels["train"][target][rows], features.labels[split][target]
    classes = 2 + int(max(y.max(), asked.max()))  # missing is a class of its own
    counts, sums = np.bincount(y + 1, minlength=classes), np.bincount(y + 1, values, minlength=classes)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), values.mean())
    guess: Guess = means[asked[_known(features, name, split)[0]] + 1]
    return guess


def _excess(table: Float[np.ndarray, "n M"], place: Mapping[str, int], how: Resampling) -> Figure | None:
    """What is explained beyond the target, as a share of what the original explains beyond it."""
    if "original" not in place:
        return None
    floor = place.get("target", 0)

    def gained(means: Float[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
        return means[:, floor] - means[:, place["original"]]

    def excess(means: Float[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
        # The original is above the floor by more than noise; rare resamples are kept finite.
        least = 1e-3 * means[:, 0]
        return np.maximum((means[:, floor] - means[:, place["model"]]) / np.maximum(gained(means), least), 0)

    if paired_interval(table, gained, *tools(how))[0] <= 0:
        return None
    return Figure(float(excess(table.mean(0)[None])[0]), paired_interval(table, excess, *tools(how)))


__all__ = ["REGRESSORS", "Explained", "explain"]
