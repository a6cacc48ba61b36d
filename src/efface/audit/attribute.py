"""The audit of one attribute: every attacker on the model and on the original, set against the floors."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from efface.audit import metrics
from efface.audit.attackers import Attacker, Budget, FeatureView
from efface.audit.features import FeatureSet
from efface.audit.floors import Floors, entropy, floors, joint_table, label_guess
from efface.audit.intervals import accuracy_interval, excess_interval
from efface.audit.result import AT_FLOOR, INCONCLUSIVE, LEAKS, Attack, Verdict
from efface.config import AuditConfig
from efface.data.schema import Column
from efface.errors import AuditError


@dataclass(frozen=True)
class Settings:
    """What all attributes of an audit share.

    Attributes:
        config: Who attacks, on which split, how long.
        suite: The attackers.
        target: Column of the main task.
        seed: Every attack's own seed follows from it.
        device: Where attackers are trained.
        tick: Called after each epoch with what is going on; and with the epochs that were not needed.
    """

    config: AuditConfig
    suite: Sequence[Attacker]
    target: str
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tick: Callable[[str, int], None] = lambda *_: None


@dataclass(frozen=True)
class Outcome:
    """An attack, and whom it guessed right."""

    attack: Attack
    correct: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Outcomes:
    """The attacks of a suite on one model.

    Attributes:
        all: In the order of the suite.
        confidence: Nominal coverage for one attacker.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """

    all: tuple[Outcome, ...]
    confidence: float
    resamples: int
    seed: int

    @property
    def best(self) -> Outcome:
        """The attacker that validation picks."""
        return max(self.all, key=lambda outcome: outcome.attack.validation_accuracy)

    @property
    def highest(self) -> Outcome:
        """The highest accuracy on the audited people, whichever attacker it is.

        Its interval is widened for having been picked among k (Bonferroni): confidence 1 − (1 − c)/k.
        """
        top = max(self.all, key=lambda outcome: outcome.attack.accuracy)
        confidence = 1 - (1 - self.confidence) / len(self.all)
        ci = accuracy_interval(top.correct, confidence, self.resamples, self.seed)
        return replace(top, attack=replace(top.attack, ci=ci))

    def exceeds(self, floor: float) -> bool:
        """Return whether some attacker is above a floor by more than noise."""
        return self.highest.attack.ci[0] > floor


def audit_attribute(
    features: FeatureSet, original: FeatureSet | None, column: Column, settings: Settings
) -> dict[str, Any]:
    """Attack one attribute; return its entry in audit.json.

    Args:
        features: What the audited model releases.
        original: What the original model releases of the same people.
        column: The attribute.
        settings: Who attacks.

    Raises:
        AuditError: A split has nobody whose attribute is known, or training people of one class only.
    """
    _check(features, column, settings.config.split)
    before = None if original is None else run_suite(original, column, settings, "the original")
    after = run_suite(features, column, settings, "the model")
    target, attribute = known_labels(features, column, settings)
    found = floors(target, attribute, column.n_classes)
    reach = reachable_floor(features, column, settings)
    after = _with_warnings(after, before, found.label, reach, _majority(features, column, "validation"))
    reached = verdict(after, before, found.label, reach)
    return {
        "classes": list(column.classes),
        "n": len(attribute),
        "floors": {"chance": found.chance, "majority": found.majority, "label": found.label},
        "best": _winner(after.best.attack, "bits"),
        "highest": _winner(after.highest.attack),
        "attackers": [outcome.attack.to_dict() for outcome in after.all],
        "original_best": None if before is None else before.best.attack.accuracy,
        "original_attackers": None if before is None else [outcome.attack.to_dict() for outcome in before.all],
        **_excess(after, before, found, label_guess(target, attribute, column.n_classes) == attribute),
        "efficacy": metrics.efficacy(after.best.attack.accuracy, column.n_classes),
        "verdict": reached,
        "warnings": _remarks(features, column, after, before, found, reach),
    }


def run_suite(features: FeatureSet, column: Column, settings: Settings, of: str) -> Outcomes:
    """Run every attacker of the suite on one attribute of one model."""
    config = settings.config
    audited = _view(features, column, config.split)
    bits = entropy(joint_table(np.zeros(len(audited), np.int64), audited.labels.numpy(), column.n_classes))
    outcomes = [_attack(attacker, features, column, settings, of, bits) for attacker in settings.suite]
    return Outcomes(tuple(outcomes), config.confidence, config.resamples, settings.seed)


def _attack(
    attacker: Attacker, features: FeatureSet, column: Column, settings: Settings, of: str, entropy_bits: float
) -> Outcome:
    config, start, used = settings.config, time.perf_counter(), 0
    doing = f"{attacker.name} reads {column.name} from {of}"

    def tick() -> None:
        nonlocal used
        used += 1
        settings.tick(doing, 1)

    # The same seed before and after: the two attacks differ in the features only.
    seed = zlib.crc32(f"{settings.seed} {column.name} {attacker.name}".encode())
    budget = Budget(config.epochs, config.batch_size, seed, settings.device, tick)
    fitted = attacker.fit(_view(features, column, "train"), _view(features, column, "validation"), budget)
    audited = _view(features, column, config.split)
    logits = fitted.predict_logits(audited)
    correct = (logits.argmax(1) == audited.labels).numpy()
    settings.tick(doing, config.epochs - used)
    attack = Attack(
        name=attacker.name,
        accuracy=float(correct.mean()),
        ci=accuracy_interval(correct, config.confidence, config.resamples, settings.seed),
        bits=metrics.bits(logits, audited.labels, entropy_bits),
        validation_accuracy=fitted.validation_accuracy,
        epoch=fitted.epoch,
        seconds=round(time.perf_counter() - start, 3),
        warning=fitted.warning,
    )
    return Outcome(attack, correct)


def verdict(after: Outcomes, before: Outcomes | None, label_floor: float, reach: float) -> Verdict:
    """Return what may be said of the attribute.

    *leaks*: some attacker is above the label floor by more than noise. *inconclusive*: not so, but the suite is in
    doubt: no attacker reaches what the model's own answer gives away, or none sees the attribute in the original.
    """
    if after.exceeds(label_floor):
        return LEAKS
    if after.highest.attack.ci[1] < reach or (before is not None and not before.exceeds(label_floor)):
        return INCONCLUSIVE
    return AT_FLOOR


def known_labels(
    features: FeatureSet, column: Column, settings: Settings
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return target and attribute of the audited people whose attribute is known."""
    labels = features.labels[settings.config.split]
    known = labels[column.name] >= 0
    return labels[settings.target][known], labels[column.name][known]


def reachable_floor(features: FeatureSet, column: Column, settings: Settings) -> float:
    """Return what a competent attacker reaches at least: the better of two rules learned on the training people.

    One names the most frequent class, the other the most frequent class given the model's own answer, which anyone
    who has h can compute. Unlike the label floor, both can be reached at any fidelity.
    """
    train, audited = features.labels["train"][column.name], features.labels[settings.config.split][column.name]
    known, seen = train >= 0, audited >= 0
    said = features.logits["train"].argmax(1).numpy(), features.logits[settings.config.split].argmax(1).numpy()
    answers = features.logits["train"].shape[1]
    counts = np.zeros((answers, column.n_classes))
    np.add.at(counts, (said[0][known], train[known]), 1)
    majority = counts.sum(0).argmax()
    rule = np.where(counts.sum(1) > 0, counts.argmax(1), majority)
    by_answer = float((rule[said[1][seen]] == audited[seen]).mean())
    return max(by_answer, float((audited[seen] == majority).mean()))


def _view(features: FeatureSet, column: Column, split: str) -> FeatureView:
    return FeatureView.of(features.features[split], features.labels[split][column.name], column.n_classes)


def _majority(features: FeatureSet, column: Column, split: str) -> float:
    labels = features.labels[split][column.name]
    return float(np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum())


def _check(features: FeatureSet, column: Column, audited: str) -> None:
    for split in dict.fromkeys(("train", "validation", audited)):
        labels = features.labels[split][column.name]
        if not (labels >= 0).any():
            raise AuditError(f"Nobody in the {split} split has a label of {column.name!r}: it can't be attacked.")
    if len(np.unique(labels := features.labels["train"][column.name][features.labels["train"][column.name] >= 0])) < 2:
        only = column.classes[int(labels[0])]
        raise AuditError(f"Everybody in the train split has {column.name!r} = {only!r}: there is nothing to learn.")


def _with_warnings(
    after: Outcomes, before: Outcomes | None, label_floor: float, reach: float, validation_majority: float
) -> Outcomes:
    """Mark attackers that can't be trusted: below what they should reach, or blind to a leak that others see."""
    leaked = before is not None and before.exceeds(label_floor)
    marked = []
    for place, outcome in enumerate(after.all):
        notes = [outcome.attack.warning] if outcome.attack.warning else []
        if outcome.attack.ci[1] < reach:
            notes.append(f"below {reach:.3f}, which the model's own answer (or the majority) gives without attack")
        if before is not None and leaked and before.all[place].attack.validation_accuracy <= validation_majority:
            notes.append("learned nothing from the original model, in which others of the suite see the attribute")
        marked.append(replace(outcome, attack=replace(outcome.attack, warning="; ".join(notes) or None)))
    return replace(after, all=tuple(marked))


def _excess(
    after: Outcomes, before: Outcomes | None, found: Floors, by_label: Bool[np.ndarray, " n"]
) -> dict[str, float | list[float] | None]:
    """Excess leakage with its interval; None where the original is within noise of the floor."""
    if before is None or not before.exceeds(found.label):
        return {"excess_leakage": None, "excess_leakage_ci": None}
    value = metrics.excess_leakage(after.best.attack.accuracy, before.best.attack.accuracy, found.label)
    if value is None:
        return {"excess_leakage": None, "excess_leakage_ci": None}
    interval = excess_interval(
        after.best.correct, before.best.correct, by_label, after.confidence, after.resamples, after.seed
    )
    return {"excess_leakage": value, "excess_leakage_ci": list(interval)}


def _winner(attack: Attack, *more: str) -> dict[str, Any]:
    values = attack.to_dict()
    return {"attacker": attack.name, **{key: values[key] for key in ("accuracy", "ci", *more)}}


def _remarks(
    features: FeatureSet, column: Column, after: Outcomes, before: Outcomes | None, found: Floors, reach: float
) -> list[str]:
    remarks = []
    if before is None:
        remarks.append("No original model was given: nothing shows that this suite can see the attribute.")
    elif not before.exceeds(found.label):
        remarks.append("No attacker sees the attribute in the original model: this suite can't judge it.")
    if after.highest.attack.ci[1] < reach:
        remarks.append(f"Every attacker is below {reach:.3f}, which needs no attack: the suite failed to train.")
    labels = features.labels["train"][column.name]
    absent = [name for z, name in enumerate(column.classes) if not (labels == z).any()]
    if absent:
        remarks.append(f"Nobody in the train split is {', '.join(absent)}: attackers can't learn to guess it.")
    return remarks


def with_aum(entry: Mapping[str, Any], fidelity: float, original_fidelity: float | None) -> dict[str, Any]:
    """Add AUM, its ceiling and the original's to an attribute's entry."""
    classes, original = len(entry["classes"]), entry["original_best"]
    before = None
    if original is not None and original_fidelity is not None:
        before = metrics.aum(metrics.efficacy(original, classes), original_fidelity)
    ceiling = metrics.aum_ceiling(metrics.efficacy(entry["floors"]["label"], classes))
    return {**entry, "aum": metrics.aum(entry["efficacy"], fidelity), "aum_ceiling": ceiling, "original_aum": before}
