"""Attributes that are numbers (ages, scores), read as numbers: how much of their variance released features explain.

Attackers guess classes, and training removes classes, that numbers were cut into (``data.derive``). Within a class the
number may still be told; regressors say how much of it is.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int

from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.intervals import Resampling, percentiles, resampled_means
from efface.audit.probe import PEOPLE, plain
from efface.audit.remembered import key_of, once
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
        target: By who knows the main task's label alone, and guesses the training people's mean; None: there is none.
        gain: value − target, of the same people; None where there is no target.
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
    gain: Figure | None
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
        tick: Called with what is going on and how many steps it went on; ``len(REGRESSORS)`` for each feature set.

    Raises:
        AuditError: Fewer than 30 people of a split have a number, or all of them the same.
    """
    how = how or Resampling()
    name, regressed = column.name, f"the number behind {column.name}"
    read = {"model": _read(sets["model"], name, split, seed, tick)}
    if "original" in sets:
        original = sets["original"]
        asked = [np.asarray(original.numbers[part][name]).tobytes() for part in sorted(original.numbers)]
        read["original"] = once(
            lambda: key_of(original, [column], split, ("numbers", seed, asked)),
            lambda: _read(original, name, split, seed, tick),
            lambda: tick(f"{regressed} was regressed on the original before", len(REGRESSORS)),
        )
    truth = _known(sets["model"], column.name, split)[1]
    errors = [np.square(truth - truth.mean())]
    errors += [np.square(truth - read[role].guess) for role in read]
    by_target = None if target is None else _by_target(sets["model"], column.name, target, split)
    errors += [] if by_target is None else [np.square(truth - by_target)]
    place = {role: number for number, role in enumerate((*read, *(() if by_target is None else ("target",))), 1)}
    means = _Means.of(np.stack(errors, 1), place, how)
    return Explained(
        column.name,
        len(truth),
        means.share("model"),
        means.share("original") if "original" in place else None,
        means.share("target") if "target" in place else None,
        means.gain("model") if "target" in place else None,
        means.excess() if "original" in place else None,
        read["model"].scores,
        tuple(read[role].name for role in ("model", "original") if role in read),
    )


@dataclass(frozen=True)
class _Means:
    """Mean squared errors of the mean (column 0) and of each guesser, of all people and in every resample of them."""

    all: Float64[np.ndarray, "1 M"]
    resampled: Float64[np.ndarray, "R M"]
    place: Mapping[str, int]
    confidence: float

    @classmethod
    def of(cls, errors: Float64[np.ndarray, "n M"], place: Mapping[str, int], how: Resampling) -> _Means:
        return cls(errors.mean(0)[None], resampled_means(errors, how.resamples, how.seed), place, how.confidence)

    def _figure(self, statistic: Callable[[Float64[np.ndarray, "R M"]], Float64[np.ndarray, " R"]]) -> Figure:
        return Figure(float(statistic(self.all)[0]), percentiles(statistic(self.resampled), self.confidence))

    def share(self, role: str) -> Figure:
        """Return the share of the variance that a guesser explains."""
        return self._figure(lambda means: 1 - means[:, self.place[role]] / means[:, 0])

    def gain(self, role: str) -> Figure:
        """Return what a guesser explains beyond the target, or beyond the mean where there is none."""
        floor, one = self.place.get("target", 0), self.place[role]
        return self._figure(lambda means: (means[:, floor] - means[:, one]) / means[:, 0])

    def excess(self) -> Figure | None:
        """Return the model's gain as a share of the original's; None where that is within noise of 0."""
        if self.gain("original").ci[0] <= 0:
            return None
        floor, model, original = self.place.get("target", 0), self.place["model"], self.place["original"]

        def excess(means: Float64[np.ndarray, "R M"]) -> Float64[np.ndarray, " R"]:
            # The original is above the floor by more than noise; rare resamples are kept finite.
            gained = np.maximum(means[:, floor] - means[:, original], 1e-3 * means[:, 0])
            return np.maximum((means[:, floor] - means[:, model]) / gained, 0)

        return self._figure(excess)


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
        if truths[part].min() == truths[part].max():
            raise AuditError(f"everybody of the {part} split has the same number of {name!r}, {truths[part][0]:g}.")
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
        tick(f"{regressor} regresses {name}", 0)
        candidates = list(fit(inputs["train"], scaled["train"], seed))
        # Nobody guesses a number that no training person has: codes that were never seen would blow up a regression.
        held_out = [_share(scaled["validation"], one(inputs["validation"]).clip(low, high)) for one in candidates]
        place = int(np.argmax(held_out))
        guess = mean + spread * candidates[place](inputs[split]).clip(low, high)
        scores[regressor] = _share(truths[split], guess)
        if best is None or held_out[place] > best[0]:
            best = held_out[place], regressor, guess
        tick(f"{regressor} regressed {name}", 1)
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
    """Perceptrons of one hidden layer, weakly and strongly held back; a tenth of the training people stops each.

    Of few people, scikit-learn's batches of 200 make few steps: a second pair takes about 32 of them in an epoch.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    settings = {"early_stopping": True, "max_iter": 40, "n_iter_no_change": 5, "random_state": seed % 2**32}
    small = max(16, len(wanted) // 32)
    for batch, decay in itertools.product(("auto", small) if small < 200 else ("auto",), (1e-2, 3.0)):
        fitted = MLPRegressor(hidden_layer_sizes=(64,), alpha=decay, batch_size=batch, **settings)
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


__all__ = ["REGRESSORS", "Explained", "explain"]
