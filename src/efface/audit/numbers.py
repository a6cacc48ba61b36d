"""Attributes that are numbers (ages, scores), read as numbers: how much of their variance released features explain.

Attackers guess classes, and training removes classes, that numbers were cut into (``data.derive``). Within a class the
number may still be told; regressors say how much of it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int

from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import Resampling, paired_interval
from efface.audit.probe import PEOPLE, plain, tools
from efface.data.schema import Column
from efface.errors import AuditError
from efface.information import prior_means

RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Penalties beside the mean squared error, in units of the features' variance."""
MOST = 64
"""Features that trees read."""
LEAST = 1e-4
"""Spread, in units of the common one, below which a feature is taken for constant."""
FEWEST = 30
"""People of a split with a number, below which nothing is told."""

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
        return plain(self)


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
    truth = _known(sets["model"], column.name, split)[1]
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
        len(truth),
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
    people, truths = {}, {}
    for part in ("train", "validation", split):
        people[part], truths[part] = _known(features, name, part)
        if len(people[part]) < FEWEST:
            found = f"{len(people[part])} people of the {part} split have a number of {name!r}"
            raise AuditError(f"{found}: too few to regress.")
    if len(people["train"]) > PEOPLE:
        kept = np.sort(np.random.default_rng(seed).permutation(len(people["train"]))[:PEOPLE])
        people["train"], truths["train"] = people["train"][kept], truths["train"][kept]
    raw = {part: features.features[part].read(rows).flatten(1).numpy() for part, rows in people.items()}
    scales = _Scales.of(raw["train"])
    inputs = {part: scales.inputs(table) for part, table in raw.items()}
    mean, spread = truths["train"].mean(), truths["train"].std() or 1.0
    scaled = {part: (truth - mean) / spread for part, truth in truths.items()}
    low, high = scaled["train"].min(), scaled["train"].max()
    scores, best = {}, None
    for regressor, fit in REGRESSORS.items():
        tick(f"{regressor} regresses {name}", 1)
        candidates = list(fit(inputs["train"], scaled["train"], seed))
        # Nobody guesses a number that no training person has: codes that were never seen would blow up a regression.
        held_out = [_share(scaled["validation"], one(inputs["validation"]).clip(low, high)) for one in candidates]
        place = int(np.argmax(held_out))
        guess = mean + spread * candidates[place](inputs[split]).clip(low, high)
        scores[regressor] = _share(truths[split], guess)
        if best is None or held_out[place] > best[0]:
            best = held_out[place], regressor, guess
    assert best is not None
    return _Regressed(best[1], best[2], scores)


def _share(truth: Guess, guess: Guess) -> float:
    return float(1 - np.square(truth - guess).mean() / max(truth.var(), 1e-300))


@dataclass(frozen=True)
class _Inputs:
    """Features about 0.

    Attributes:
        natural: In one common scale: what varies little stays little.
        white: Each in units of its own spread: what hides in small directions shows; those of next to none are 0.
    """

    natural: Table
    white: Table


@dataclass(frozen=True)
class _Scales:
    """Centre and spread of the training people's features."""

    centre: Float32[np.ndarray, " K"]
    spread: Float32[np.ndarray, " K"]

    @classmethod
    def of(cls, table: Table) -> _Scales:
        return cls(table.mean(0), table.std(0))

    def inputs(self, table: Table) -> _Inputs:
        """Return features in both scales."""
        centred = table - self.centre
        common = max(float(np.sqrt(np.square(self.spread).mean())), 1e-12)
        there = self.spread > LEAST * common
        white = np.where(there, centred / np.where(there, self.spread, 1), 0)
        return _Inputs((centred / common).astype(np.float32), white.astype(np.float32))


Regressor: TypeAlias = Callable[[_Inputs], Guess]


def _ridge(train: _Inputs, wanted: Guess, _seed: int) -> Iterator[Regressor]:
    """Linear regression in float64, in both scales, at every penalty."""
    for scale in ("white", "natural"):
        table = getattr(train, scale).astype(np.float64)
        values, axes = np.linalg.eigh(table.T @ table / len(table))
        projected = axes.T @ (table.T @ wanted / len(table))
        for ridge in RIDGES:
            weight = axes @ (projected / (np.maximum(values, 0) + ridge * max(values.mean(), 1e-12)))
            yield lambda inputs, weight=weight, scale=scale: getattr(inputs, scale).astype(np.float64) @ weight  # type: ignore[misc]


def _mlp(train: _Inputs, wanted: Guess, seed: int) -> Iterator[Regressor]:
    """Perceptrons of one hidden layer, weakly and strongly held back; a tenth of the training people stops each."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    settings = {"early_stopping": True, "max_iter": 40, "n_iter_no_change": 5, "random_state": seed % 2**32}
    for decay in (1e-2, 3.0):
        fitted = MLPRegressor(hidden_layer_sizes=(64,), alpha=decay, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(train.natural, wanted.astype(np.float32))
        yield lambda inputs, fitted=fitted: fitted.predict(inputs.natural).astype(np.float64)  # type: ignore[misc]


def _trees(train: _Inputs, wanted: Guess, seed: int) -> Iterator[Regressor]:
    """Boosted trees on the features that go most with the number; a tenth of the training people stops them."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    together = np.abs(train.white.T.astype(np.float64) @ (wanted - wanted.mean()))
    chosen = np.sort(np.argsort(-together, kind="stable")[:MOST])
    settings = {"early_stopping": True, "max_iter": 200, "max_leaf_nodes": 15, "random_state": seed % 2**32}
    fitted = HistGradientBoostingRegressor(**settings)
    fitted.fit(train.natural[:, chosen], wanted)
    yield lambda inputs: fitted.predict(inputs.natural[:, chosen])


REGRESSORS = {"ridge": _ridge, "mlp": _mlp, "trees": _trees}
"""What is fitted to the training people's inputs and numbers, with a seed: candidates, and validation picks one."""


def _known(features: FeatureSet, name: str, split: str) -> tuple[Int[np.ndarray, " n"], Guess]:
    """Return the places of people whose number is known, and the numbers."""
    values = np.asarray(features.numbers[split][name], np.float64)
    rows = np.flatnonzero(~np.isnan(values))
    return rows, values[rows]


def _by_target(features: FeatureSet, name: str, target: str, split: str) -> Guess:
    """The mean of the training people of the same y; of all of them where y is missing."""
    values = torch.from_numpy(np.asarray(features.numbers["train"][name], np.float64))
    y, asked = features.labels["train"][target], features.labels[split][target]
    means = prior_means(values, torch.from_numpy(y), 1 + int(max(y.max(), asked.max()))).numpy()
    guess: Guess = np.append(means, values.nanmean())[asked[_known(features, name, split)[0]]]
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
