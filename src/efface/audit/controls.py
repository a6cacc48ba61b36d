"""Controls of an attribute's audit: can these attackers find a leak that is there, and are they quiet where none is?

Both are asked on the features of the audited model, of an attribute w that is made up: z shuffled among people of the
same y, so that the floors are z's own and the features tell nothing of w beyond y.

*Planted leak*: a noisy copy of w is written into the features, so faintly that it must be learned; for attackers that
read the model's own answer alone, into its logits. What can be gained by reading it is known. An attacker that gains
nothing is unfit: that it finds nothing of z shows nothing.

*Shuffled z*: nothing is written. An attacker above the floor by more than noise raises a false alarm; it counts if a
second shuffle raises it again.

To keep them cheap, controls take a part of the people, of the epochs, and of the channels; the sizes are told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.audit.attack import Arena, Settings, fit_once, members_of
from efface.audit.attackers import Attacker, FeatureView
from efface.audit.attackers.ensemble import combine
from efface.audit.features import FeatureSet
from efface.audit.floors import label_guess, learned_guess
from efface.audit.intervals import Interval, Resampling, accuracy_interval, mean_interval
from efface.audit.plants import (
    SEPARATION,
    Pattern,
    channels_of,
    noisy_copy,
    part,
    pattern_for,
    planted,
    shuffle_within,
)
from efface.audit.store import stored_from_arrays
from efface.data.schema import Column

PEOPLE = {"train": 4000, "validation": 1500, "audited": 2000}
"""Most people of the planted leak; for shuffled labels, a half."""
EPOCHS = {"planted": 6, "shuffled": 3}
"""Most epochs."""
EXCESS = 0.15
"""Accuracy that the planted copy is worth; more where people are so few that this would be within noise."""
ROOM = 0.02
"""Least that there is to know of z beyond y: nothing can be planted in less."""
UNWRITTEN = "the features do not vary: nothing can be written into them"
DETERMINED = "knowing y tells z but for a few people: nothing more could leak, and nothing can be planted"
TOO_FEW = "{} people are too few: one who reads the planted leak perfectly is within noise of the floor"
BLIND = "does not find a planted leak that is worth {:.0%} of accuracy"
ALARMED = "finds more than the floor where z is shuffled, twice in a row"


@dataclass(frozen=True)
class Controls:
    """What controls say of a suite.

    Attributes:
        fit: By attacker, whether it finds what is planted; None: nothing could be planted.
        alarmed: Attackers that find what is not there.
        reasons: Why attackers are not to be trusted, by name.
        failed: Why the suite as a whole can't show that an attribute is at its floor.
        remarks: What else the reader must know.
        section: For audit.json.
    """

    fit: Mapping[str, bool | None]
    alarmed: frozenset[str]
    reasons: Mapping[str, str]
    failed: tuple[str, ...]
    remarks: tuple[str, ...]
    section: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """What controls are played on: a part of an arena, with a made-up attribute.

    Attributes:
        views: Per role; their labels are w.
        target: Per role, y as a class; a missing one is a class of its own.
        known: Per role, what an attacker surely knows: the model's own answer, or y.
    """

    views: Mapping[str, FeatureView]
    target: Mapping[str, Int[np.ndarray, " n"]]
    known: Mapping[str, Int[np.ndarray, " n"]]

    @classmethod
    def of(cls, arena: Arena, share: float, generator: np.random.Generator) -> Stage:
        """Draw people and channels, and shuffle z within y."""
        channels, views, target, known = channels_of(arena.train.shape, generator), {}, {}, {}
        for role, most in PEOPLE.items():
            view = getattr(arena, role)
            people = np.sort(generator.permutation(len(view))[: max(1, int(share * most))])
            y = np.zeros(len(people), np.int64)
            if arena.target is not None:
                y = 1 + arena.target[role].numpy()[people]
            labels = shuffle_within(view.labels.numpy()[people], y, generator)
            views[role] = part(view, people, channels, torch.from_numpy(labels))
            logits, target[role] = views[role].logits, y
            known[role] = y if logits is None else logits.argmax(1).numpy()
        return cls(views, target, known)


def run_controls(features: FeatureSet, column: Column, settings: Settings) -> Controls:
    """Plant a leak, and shuffle labels, and see what each attacker of the suite makes of it.

    Args:
        features: Of the audited model.
        column: The attribute.
        settings: Who attacks. Each attacker is fitted once for each control, whatever ``seeds`` says.
    """
    start = time.perf_counter()
    arena = Arena.make(features, column, settings, "the controls")
    members, together = members_of(settings.suite)
    outputs = 0 if arena.train.logits is None else arena.train.logits.shape[1]
    asked = [one for one in members if one.applies(arena.train.shape, outputs) is None]
    generator = np.random.default_rng(settings.seed)
    stage = Stage.of(arena, 1.0, generator)
    # An attacker that has nothing to read without logits reads them.
    deaf = [one for one in asked if one.applies(arena.train.shape, 0) is not None]
    readers = [one for one in asked if one not in deaf]
    made = plant(stage, generator)
    found = judge_planted(made, readers, together, column, settings)
    if deaf:
        found["attackers"] += judge_planted(plant(stage, generator, True), deaf, False, column, settings)["attackers"]
    alarmed, shuffled = judge_shuffled(arena, asked, together, column, settings, generator)
    fit = {row["name"]: row["fit"] for row in found["attackers"]}
    reasons = {row["name"]: row["reason"] for row in found["attackers"] if row["reason"]}
    reasons |= {name: "; ".join(filter(None, (reasons.get(name), ALARMED))) for name in alarmed}
    failed = _failed(made, fit, alarmed)
    section = {
        "passed": not failed,
        "failed": list(failed),
        "people": {role: len(view) for role, view in stage.views.items()},
        "features": list(stage.views["train"].shape),
        "planted": found,
        "shuffled": shuffled,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Controls(fit, frozenset(alarmed), reasons, failed, _remarks(alarmed, made), section)


def control_steps(suite: Sequence[Attacker], epochs: int) -> int:
    """Return the steps of the progress bar that the controls of one attribute take."""
    return len(members_of(suite)[0]) * sum(min(epochs, most) for most in EPOCHS.values())


@dataclass(frozen=True, eq=False)
class Planted:
    """A stage with a leak written into it.

    Attributes:
        stage: Its views hold what was written; also the logits, for those who read these alone.
        pattern: How it was written.
        floor: ``[n]`` whom one guesses right who knows the model's answer alone.
        perfect: ``[n]`` whom one guesses right who reads the copy too.
        powerless: Why this shows nothing, or None.
    """

    stage: Stage
    pattern: Pattern
    floor: Bool[np.ndarray, " n"]
    perfect: Bool[np.ndarray, " n"]
    powerless: str | None


def plant(stage: Stage, generator: np.random.Generator, answers: bool = False) -> Planted:
    """Write a noisy copy of w into everybody's features, or logits.

    Args:
        stage: Who, and w.
        generator: Of pattern and noise.
        answers: Whether to write into the logits in place of the features.
    """
    train, audited = stage.views["train"], stage.views["audited"]
    pattern = pattern_for(_answers(train) if answers else train, generator)
    # Four standard errors of a difference between two guessers.
    excess = max(EXCESS, 4 * float(np.sqrt(0.4 / len(audited))))
    copy = noisy_copy(train.labels.numpy(), stage.target["train"], stage.known["train"], train.classes, excess)
    views, written = {}, {}
    for role, view in stage.views.items():
        written[role] = copy.draw(view.labels.numpy(), stage.target[role], generator)
        made = planted(_answers(view) if answers else view, written[role], pattern)
        views[role] = replace(view, logits=made.source.read(slice(None))) if answers else made
    known = _familiar(stage.known["audited"], stage.known["train"])
    blind, read = (guess == audited.labels.numpy() for guess in copy.guesses(known, written["audited"]))
    powerless = None
    if pattern.amplitude == 0:
        powerless = UNWRITTEN
    elif 1 - max(copy.floor, _told_by(stage.target["train"], train.labels.numpy())) < ROOM:
        powerless = DETERMINED
    elif _gain(read, blind, Resampling())[1][0] <= 0:
        powerless = TOO_FEW.format(len(audited))
    return Planted(replace(stage, views=views), pattern, blind, read, powerless)


def _told_by(y: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Accuracy of the most frequent label within each y, on the people who show it."""
    return float(sum(np.bincount(labels[y == one]).max() for one in np.unique(y)) / len(y))


def listen(
    stage: Stage, asked: Sequence[Attacker], together: bool, column: Column, settings: Settings, epochs: int
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Fit each attacker once; return whom of the audited people it guesses right, the ensemble last."""
    views = stage.views
    arena = Arena(views["train"], views["validation"], views["audited"], None, "the controls")
    few = replace(settings, config=settings.config.model_copy(update={"epochs": min(epochs, settings.config.epochs)}))
    said: dict[str, tuple[Tensor, Tensor]] = {}
    for attacker in asked:
        fitted = fit_once(attacker, arena, column, few, 0)
        validation, audited = (fitted.predict_logits(views[role]).float() for role in ("validation", "audited"))
        said[attacker.name] = validation, audited
    heard = {name: logits for name, (_, logits) in said.items()}
    if together and len(said) > 1:
        mixture = combine({name: first for name, (first, _) in said.items()}, views["validation"].labels, settings.seed)
        heard["ensemble"] = mixture.logits(heard)
    labels = views["audited"].labels
    return {name: (logits.argmax(1) == labels).numpy() for name, logits in heard.items()}


def judge_planted(
    made: Planted, asked: Sequence[Attacker], together: bool, column: Column, settings: Settings
) -> dict[str, Any]:
    """Return who finds what is planted."""
    heard = listen(made.stage, asked, together, column, settings, EPOCHS["planted"])
    worth, rows = float(made.perfect.mean() - made.floor.mean()), []
    for name, correct in heard.items():
        gain, ci = _gain(correct, made.floor, settings.how)
        share = {"value": gain / worth, "ci": [end / worth for end in ci]} if worth > 0 else None
        # Where nothing could be planted, nothing found says nothing.
        fit = True if ci[0] > 0 else None if made.powerless else False
        reason = BLIND.format(worth) if fit is False else None
        rows.append({"name": name, "accuracy": float(correct.mean()), "fit": fit, "share": share, "reason": reason})
    return {
        "floor": float(made.floor.mean()),
        "bayes": float(made.perfect.mean()),
        "epochs": min(EPOCHS["planted"], settings.config.epochs),
        "separation": SEPARATION,
        "amplitude": round(made.pattern.amplitude, 4),
        "powerless": made.powerless,
        "attackers": rows,
    }


def _gain(correct: Bool[np.ndarray, " n"], floor: Bool[np.ndarray, " n"], how: Resampling) -> tuple[float, Interval]:
    """How much more often one guesser is right than another, of the same people."""
    more: Float[np.ndarray, " n"] = correct.astype(float) - floor
    return float(more.mean()), mean_interval(more, how.confidence, how.resamples, how.seed)


def judge_shuffled(
    arena: Arena,
    asked: Sequence[Attacker],
    together: bool,
    column: Column,
    settings: Settings,
    generator: np.random.Generator,
) -> tuple[list[str], dict[str, Any]]:
    """Return who finds what is not there, after a second shuffle if need be; and the section for audit.json."""
    rows, reachable, floor = _shuffled(arena, asked, together, column, settings, generator)
    suspects = [row["name"] for row in rows if row["alarm"]]
    alarmed = list(suspects)
    if suspects:
        again, *_ = _shuffled(arena, asked, together, column, settings, generator)
        alarmed = [row["name"] for row in again if row["alarm"] and row["name"] in suspects]
    for row in rows:
        row["alarm"] = row["name"] in alarmed
    section = {
        "floor": floor,
        "reachable": reachable,
        "epochs": min(EPOCHS["shuffled"], settings.config.epochs),
        "people": {role: int(max(1, min(len(getattr(arena, role)), most // 2))) for role, most in PEOPLE.items()},
        "shuffles": 2 if suspects else 1,
        "covered": sum(row["ci"][0] <= floor and row["ci"][1] >= reachable for row in rows),
        "above": sum(row["ci"][0] > floor for row in rows),
        "below": sum(row["ci"][1] < reachable for row in rows),
        "attackers": rows,
    }
    return alarmed, section


def _shuffled(
    arena: Arena,
    asked: Sequence[Attacker],
    together: bool,
    column: Column,
    settings: Settings,
    generator: np.random.Generator,
) -> tuple[list[dict[str, Any]], float, float]:
    """One shuffle: each attacker's accuracy with its interval; the floor that can be reached, and the label floor.

    The label floor is counted on the audited people's own labels. With few people and many classes it is above what
    anyone can reach who did not see them; a rule that training people taught, from the model's answer, is not.
    """
    stage = Stage.of(arena, 0.5, generator)
    heard = listen(stage, asked, together, column, settings, EPOCHS["shuffled"])
    audited = stage.views["audited"]
    labels = audited.labels.numpy()
    floor = float((label_guess(stage.target["audited"], labels, audited.classes) == labels).mean())
    train = stage.known["train"], stage.views["train"].labels.numpy()
    reachable = float((learned_guess(*train, stage.known["audited"], audited.classes) == labels).mean())
    # The rule of the verdict: widened for the best of so many, and for either side of a binary attribute.
    wide = settings.how.widened(len(heard) * (2 if audited.classes == 2 else 1))
    rows = []
    for name, correct in heard.items():
        low, high = accuracy_interval(correct, wide.confidence, wide.resamples, wide.seed)
        ci = accuracy_interval(correct, settings.how.confidence, settings.how.resamples, settings.how.seed)
        alarm = low > floor or (audited.classes == 2 and 1 - high > floor)
        rows.append({"name": name, "accuracy": float(correct.mean()), "ci": list(ci), "alarm": bool(alarm)})
    return rows, min(reachable, floor), floor


def _failed(made: Planted, fit: Mapping[str, bool | None], alarmed: Sequence[str]) -> tuple[str, ...]:
    """Why the suite can't show that an attribute is at its floor."""
    if any(one and name not in alarmed for name, one in fit.items()):
        return ()
    if made.powerless == DETERMINED:
        return ()
    if made.powerless:
        return (f"No leak could be planted: {made.powerless}.",)
    return ("No attacker finds a planted leak: this suite can't show that there is none.",)


def _remarks(alarmed: Sequence[str], made: Planted) -> tuple[str, ...]:
    found = [f"{name} {ALARMED}: what it finds does not count." for name in alarmed]
    if made.powerless == DETERMINED:
        found.append(f"{DETERMINED[0].upper()}{DETERMINED[1:]}.")
    return tuple(found)


def _answers(view: FeatureView) -> FeatureView:
    """The model's own answers as features."""
    assert view.logits is not None
    source = stored_from_arrays({"all": view.logits.float().numpy()}, exact=True)["all"]
    return FeatureView(source, np.arange(len(view)), view.labels, view.classes)


def _familiar(known: Int[np.ndarray, " n"], train: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """What is known of each person; what nobody in training had becomes what is most frequent there."""
    return np.where(np.isin(known, train), known, np.bincount(train).argmax())


__all__ = ["Controls", "control_steps", "listen", "plant", "run_controls"]
