"""The audit of one attribute: the attacks on the model and on the original, set against the floors; and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from efface.audit import metrics
from efface.audit.attack import (
    NO_TARGET,
    Outcomes,
    Settings,
    check_attribute,
    known_labels,
    run_suite,
)
from efface.audit.controls import Controls, run_controls
from efface.audit.features import FeatureSet
from efface.audit.floors import Floors, floors, label_guess, learned_guess
from efface.audit.intervals import Interval, Resampling, paired_interval
from efface.audit.remembered import attack_original
from efface.audit.result import AT_FLOOR, INCONCLUSIVE, LEAKS, Attack, Verdict
from efface.data.schema import Column


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
    check_attribute(features, column, settings.config.split)
    before = None if original is None else attack_original(original, column, settings)
    after = run_suite(features, column, settings, "the model")
    controls = run_controls(features, column, settings)
    target, attribute = known_labels(features, column, settings)
    found = floors(target, attribute, column.n_classes)
    reach = reachable_floor(features, column, settings)
    after = _with_warnings(after, before, found.label, reach, _majority(features, column, "validation"))
    after = _with_fitness(after, controls)
    by_label = label_guess(target, attribute, column.n_classes) == attribute
    excess, excess_ci, by_highest = _excess(after, before, found, by_label)
    said = verdict(after, before, found.label, reach, controls, by_label)
    remarks = [*_remarks(features, column, after, before, found, reach), *controls.failed, *controls.remarks]
    return {
        "classes": list(column.classes),
        "n": len(attribute),
        "floors": {"chance": found.chance, "majority": found.majority, "label": found.label},
        "best": _winner(after.best.attack, "bits"),
        "highest": {**_winner(after.highest.attack), "excess_leakage": by_highest},
        "attackers": [outcome.attack.to_dict() for outcome in after.all],
        "original_best": None if before is None else before.best.attack.accuracy,
        "original_attackers": None if before is None else [outcome.attack.to_dict() for outcome in before.all],
        "excess_leakage": excess,
        "excess_leakage_ci": excess_ci,
        "efficacy": metrics.efficacy(after.best.attack.accuracy, column.n_classes),
        "skipped": dict(after.skipped),
        "verdict": said,
        "warnings": [*remarks, *(unguessed(after.most_informed.attack) if said == AT_FLOOR else ())],
        "controls": {**controls.section, "original": _original(before, found)},
    }


def verdict(
    after: Outcomes,
    before: Outcomes | None,
    label_floor: float,
    reach: float,
    controls: Controls | None = None,
    by_label: Bool[np.ndarray, " n"] | None = None,
) -> Verdict:
    """Return what may be said of the attribute.

    *leaks*: some attacker that raises no false alarm is above the label floor by more than noise, or validation's pick
    of them is, where the same people are paired. *inconclusive*: not so, but the suite is in doubt: only attackers that
    raise false alarms see the attribute, none finds a planted leak, none reaches what the model's own answer gives
    away, or none sees the attribute in the original.

    Args:
        after: Of the audited model.
        before: Of the original.
        label_floor: What y alone gives.
        reach: What a competent attacker reaches at least.
        controls: What they showed.
        by_label: Whom y alone guesses right; None: nobody is paired.
    """

    def seen(found: Outcomes) -> bool:
        return found.exceeds(label_floor) or (by_label is not None and found.beats(by_label))

    alarmed = frozenset() if controls is None else controls.alarmed
    trusted = replace(after, all=tuple(one for one in after.all if one.attack.name not in alarmed))
    if trusted.all and seen(trusted):
        return LEAKS
    if seen(after) or (controls is not None and controls.failed):
        return INCONCLUSIVE
    if after.highest.attack.ci[1] < reach or (before is not None and not before.exceeds(label_floor)):
        return INCONCLUSIVE
    return AT_FLOOR


def unguessed(told: Attack) -> list[str]:
    """Say what the verdict at the floor does not: that probabilities may tell what no single guess shows.

    Args:
        told: The attacker that is best informed on validation: of one, so that its interval is not the best of several,
            and not of the best guesser, which may know less.
    """
    if told.conditional_bits is None or told.conditional_bits_ci is None or told.conditional_bits_ci[0] <= 0:
        return []
    low, high = told.conditional_bits_ci
    return [
        f"No guess beats the label floor by more than noise, but probabilities do: those of {told.name} hold "
        f"{told.conditional_bits:.3f} bits ({low:.3f} to {high:.3f}) beyond what the target tells."
    ]


def reachable_floor(features: FeatureSet, column: Column, settings: Settings) -> float:
    """Return what a competent attacker reaches at least: the better of two rules learned on the training people.

    One names the most frequent class, the other the most frequent class given the model's own answer, which anyone
    who has h can compute. Unlike the label floor, both can be reached at any fidelity. Where no model answers, the
    first rule is left.
    """
    split = settings.config.split
    train, audited = features.labels["train"][column.name], features.labels[split][column.name]
    known, seen = train >= 0, audited >= 0
    majority = np.bincount(train[known], minlength=column.n_classes).argmax()
    by_majority = float((audited[seen] == majority).mean())
    if not features.logits:
        return by_majority
    said = features.logits["train"].argmax(1).numpy(), features.logits[split].argmax(1).numpy()
    guessed = learned_guess(said[0][known], train[known], said[1][seen], column.n_classes)
    return max(by_majority, float((guessed == audited[seen]).mean()))


def _majority(features: FeatureSet, column: Column, split: str) -> float:
    labels = features.labels[split][column.name]
    return float(np.bincount(labels[labels >= 0]).max() / (labels >= 0).sum())


def _with_warnings(
    after: Outcomes, before: Outcomes | None, label_floor: float, reach: float, validation_majority: float
) -> Outcomes:
    """Mark attackers that can't be trusted: below what they should reach, or blind to a leak that others see."""
    leaked = before is not None and before.exceeds(label_floor)
    # By name: another shape of the original's features may leave other attackers without anything to read.
    earlier = {} if before is None else {one.attack.name: one.attack.validation_accuracy for one in before.all}
    marked = []
    for outcome in after.all:
        notes = [outcome.attack.warning] if outcome.attack.warning else []
        if outcome.attack.ci[1] < reach:
            notes.append(f"below {reach:.3f}, which the model's own answer (or the majority) gives without attack")
        if leaked and earlier.get(outcome.attack.name, 1.0) <= validation_majority:
            notes.append("learned nothing from the original model, in which others of the suite see the attribute")
        marked.append(replace(outcome, attack=replace(outcome.attack, warning="; ".join(notes) or None)))
    return replace(after, all=tuple(marked))


def _with_fitness(after: Outcomes, controls: Controls) -> Outcomes:
    """Say of each attacker what the controls showed."""
    marked = []
    for outcome in after.all:
        name = outcome.attack.name
        fit, reason = controls.fit.get(name), controls.reasons.get(name)
        fit = False if name in controls.alarmed else fit
        marked.append(replace(outcome, attack=replace(outcome.attack, fit=fit, unfit=reason)))
    return replace(after, all=tuple(marked))


def _original(before: Outcomes | None, found: Floors) -> dict[str, Any]:
    """The third control: whether the suite sees the attribute where nothing was unlearned."""
    if before is None:
        return {"given": False, "seen": None, "best": None}
    return {"given": True, "seen": before.exceeds(found.label), "best": before.best.attack.accuracy}


def _excess(
    after: Outcomes, before: Outcomes | None, found: Floors, by_label: Bool[np.ndarray, " n"]
) -> tuple[float | None, list[float] | None, float | None]:
    """Excess leakage by validation's pick with its interval, and by the highest attacker.

    None where the original is within noise of the floor.
    """
    if before is None or not before.exceeds(found.label):
        return None, None, None
    ceiling = before.best.attack.accuracy
    picked, highest = (
        metrics.excess_leakage(one.attack.accuracy, ceiling, found.label) for one in (after.best, after.highest)
    )
    if picked is None:
        return None, None, None
    return picked, list(excess_interval(after.best.share, before.best.share, by_label, after.how)), highest


def excess_interval(
    best: Float[np.ndarray, " n"], original: Float[np.ndarray, " n"], floor: Bool[np.ndarray, " n"], how: Resampling
) -> Interval:
    """Return the interval of the excess leakage over people; each person's right guesses are a share of the seeds.

    Args:
        best: Of the attacker on the audited model.
        original: Of the attacker on the original model.
        floor: Of one who knows y only.
        how: Confidence, resamples and seed.
    """

    def excess(means: Float[np.ndarray, "R M"]) -> Float[np.ndarray, " R"]:
        # Half a person is the least the original can leak: keeps rare empty resamples finite.
        leaked = np.maximum(means[:, 1] - means[:, 2], 0.5 / len(best))
        return np.maximum((means[:, 0] - means[:, 2]) / leaked, 0)

    columns = np.stack([best, original, floor], 1).astype(float)
    return paired_interval(columns, excess, how.confidence, how.resamples, how.seed)


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
    if after.highest.attack.ci[1] < reach and not after.inverted(found.label):
        remarks.append(f"Every attacker is below {reach:.3f}, which needs no attack: the suite failed to train.")
    if after.inverted(found.label):
        low = after.lowest.attack
        remarks.append(f"{low.name} is wrong so often that its opposite is right: {1 - low.accuracy:.3f}.")
    labels = features.labels["train"][column.name]
    absent = [name for z, name in enumerate(column.classes) if not (labels == z).any()]
    if absent:
        remarks.append(f"Nobody in the train split is {', '.join(absent)}: attackers can't learn to guess it.")
    return remarks


def with_aum(entry: Mapping[str, Any], fidelity: float | None, original_fidelity: float | None) -> dict[str, Any]:
    """Add AUM, its ceiling and the original's to an attribute's entry; without fidelity there are none."""
    classes, original = len(entry["classes"]), entry["original_best"]
    before = None
    if original is not None and original_fidelity is not None:
        before = metrics.aum(metrics.efficacy(original, classes), original_fidelity)
    ceiling = metrics.aum_ceiling(metrics.efficacy(entry["floors"]["label"], classes))
    now = None if fidelity is None else metrics.aum(entry["efficacy"], fidelity)
    return {**entry, "aum": now, "aum_ceiling": None if now is None else ceiling, "original_aum": before}


__all__ = ["NO_TARGET", "Settings", "audit_attribute", "excess_interval", "reachable_floor", "verdict", "with_aum"]
