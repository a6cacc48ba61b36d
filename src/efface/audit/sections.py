"""What an audit looks at beside the attackers' figures: other columns, groups, pairs, whom attackers learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from efface.audit.attack import Settings
from efface.audit.attackers import build_attacker
from efface.audit.attribute import audit_attribute
from efface.audit.certificate import certify
from efface.audit.controls import control_steps
from efface.audit.fairness import group_fidelity
from efface.audit.features import FeatureSet
from efface.audit.intersections import intersect, product_floors, suggested_pairs, with_intersection
from efface.audit.learning import DOUBLINGS, best_single, learning_curve
from efface.audit.numbers import REGRESSORS, explain
from efface.audit.people import compare_training_people
from efface.audit.probe import Probing, condense
from efface.audit.progress import Bars
from efface.audit.selectivity import selectivity
from efface.audit.subject import Subject
from efface.data.schema import Column, Schema
from efface.errors import AuditError
from efface.report.words import upwards

PROBES = ("linear", "mlp")
COLUMN_PROBES = ("least-squares", "mlp-small")
"""Of other columns, which may be dozens: validation's pick of the two finds as much as of `linear` and `mlp-small`
(CelebA's original, 38 columns, test: mean accuracy 0.863, both), and perceptrons of many columns learn side by side:
13.5 s of a core, where `linear` and perceptrons one by one took 41."""
FOLDS = 2
MOST_GROUPS = 24
"""Attributes of more classes are not compared as groups."""


@dataclass(frozen=True, eq=False)
class Inquiry:
    """An audit under way.

    Attributes:
        subject: What is audited.
        settings: Who attacks.
        shown: Where progress is shown.
        answers: Whether the logits are the model's own; else a probe's.
        entries: What the attackers found, by attribute.
        remarks: Why parts of a section lack; sections add theirs.
    """

    subject: Subject
    settings: Settings
    shown: Bars
    answers: bool = True
    entries: Mapping[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def condensed(self) -> dict[str, FeatureSet]:
        """Features for probes, by role."""
        return {role: condense(one, seed=self.settings.seed) for role, one in self.subject.sets.items()}

    def probing(self, title: str, readings: int, attackers: tuple[str, ...] = PROBES) -> Probing:
        """Return how to probe, with a progress bar of its own for so many readings."""
        config = self.settings.config
        made = Probing(
            attackers=attackers,
            split=config.split,
            epochs=min(config.epochs, 8),
            how=self.settings.how,
            seed=self.settings.seed,
            device=self.settings.device,
        )
        return replace(made, tick=self.shown.open(title, readings * made.steps))


def look_beyond(inquiry: Inquiry, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, float], list[str]]:
    """Return the sections of audit.json by name, seconds by name, and why a section lacks.

    A section that can't be made is a remark, no error: the attackers' figures stand without it.
    """
    found: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    remarks = inquiry.remarks
    for name in names:
        if name not in SECTIONS:
            continue
        start = time.perf_counter()
        try:
            found[name] = SECTIONS[name](inquiry)
        except AuditError as error:
            remarks.append(f"No {name.replace('_', ' ')}: {error}")
        seconds[f"{name}_s"] = round(time.perf_counter() - start, 3)
    return {name: section for name, section in found.items() if section}, seconds, remarks


def _fairness(inquiry: Inquiry) -> dict[str, Any]:
    """The task in the groups of each attribute."""
    subject = inquiry.subject
    if subject.target is None or not inquiry.answers:
        return {}
    sets = (subject.model, subject.original)
    return {
        column.name: group_fidelity(*sets, column, subject.target, subject.split, inquiry.settings.how).to_dict()
        for column in subject.attributes
        if column.n_classes <= MOST_GROUPS
    }


def _selectivity(inquiry: Inquiry) -> dict[str, Any]:
    """The columns that were not asked for."""
    subject = inquiry.subject
    if subject.original is None or not subject.others:
        return {}
    probing = inquiry.probing("other columns", 2 * len(subject.others), COLUMN_PROBES)
    sets = inquiry.condensed
    found = selectivity(sets["model"], sets["original"], subject.others, subject.attributes, probing, subject.preserved)
    return found.to_dict()


def _numbers(inquiry: Inquiry) -> dict[str, Any]:
    """Attributes that are numbers, cut into classes, read as numbers."""
    subject, settings, sets = inquiry.subject, inquiry.settings, inquiry.condensed
    asked = [column for column in subject.attributes if column.name in sets["model"].numbers.get(subject.split, ())]
    if not asked:
        return {}
    tick = inquiry.shown.open("numbers behind classes", len(asked) * len(sets) * len(REGRESSORS))
    target = None if subject.target is None else subject.target.name
    found: dict[str, Any] = {}
    for column in asked:
        try:
            told = explain(sets, column, target, subject.split, settings.how, settings.seed, tick)
        except AuditError as error:
            inquiry.remarks.append(f"The number behind {column.name!r} was not read: {error}")
        else:
            found[column.name] = told.to_dict()
    return found


def _training_people(inquiry: Inquiry) -> dict[str, Any]:
    """Attackers that learned from people the encoder never saw."""
    subject = inquiry.subject
    if not subject.rows or subject.split != "test":
        return {}
    probing = inquiry.probing("training people", len(subject.attributes) * (2 + FOLDS))
    model = inquiry.condensed["model"]
    return {c.name: compare_training_people(model, c, probing, FOLDS).to_dict() for c in subject.attributes}


def _intersections(inquiry: Inquiry) -> dict[str, Any]:
    """Pairs of attributes, attacked as one by the probes."""
    subject, found = inquiry.subject, {}
    schema = Schema(subject.target or Column("", ()), subject.attributes, subject.others)
    pairs = suggested_pairs(schema)
    settings = replace(inquiry.settings, suite=[build_attacker(name) for name in PROBES], seeds=1)
    each = len(subject.sets) * len(PROBES) * settings.config.epochs
    steps = len(pairs) * (each + control_steps(settings.suite, settings.config.epochs))
    settings = replace(settings, tick=inquiry.shown.open("pairs of attributes", steps))
    for first, second in pairs:
        product = intersect(first, second, subject.model.labels)
        sets = {role: with_intersection(one, product) for role, one in inquiry.condensed.items()}
        entry = audit_attribute(sets["model"], sets.get("original"), product.column, settings)
        labels = subject.model.labels[subject.split]
        below = product_floors(product, labels, settings.target, subject.split)
        found[product.column.name] = {**entry, "product": product.to_dict(), "product_floors": below.to_dict()}
    return found


def _learning_curve(inquiry: Inquiry) -> dict[str, Any]:
    """The best attacker of each attribute, with fewer people to learn from."""
    subject, settings, found = inquiry.subject, inquiry.settings, {}
    suite = {attacker.name: attacker for attacker in settings.suite}
    steps = len(subject.attributes) * (DOUBLINGS + 1) * settings.config.epochs
    settings = replace(settings, tick=inquiry.shown.open("learning curves", steps))
    for column in subject.attributes:
        curve = learning_curve(subject.model, column, suite[best_single(inquiry.entries[column.name])], settings)
        if curve is None:
            raise AuditError(f"too few training people have a label of {column.name!r}.")
        found[column.name] = curve.to_dict()
    return found


SECTIONS: Mapping[str, Callable[[Inquiry], dict[str, Any]]] = {
    "fairness": _fairness,
    "selectivity": _selectivity,
    "numbers": _numbers,
    "training_people": _training_people,
    "intersections": _intersections,
    "learning_curve": _learning_curve,
}
"""By the names of ``audit.beyond``; recovery is made where decoders are."""


def certificate(subject: Subject, column: Column, confidence: float) -> dict[str, Any] | None:
    """Return the certificate of an attribute where the release is a finite code that repeats; else None.

    Where it is not known whom the encoder was fitted on, nobody can be compared, and the certificate says so.
    """
    codes = subject.model.codes
    if subject.split not in codes or not len(codes[subject.split]):
        return None
    labels = subject.model.labels[subject.split][column.name]
    fitted = [rows for name, rows in subject.rows.items() if name != subject.split]
    people: dict[str, Any] = {}
    if fitted:
        people = {"people": subject.rows[subject.split], "fitted": np.concatenate(fitted)}
    found = certify(codes[subject.split], labels, confidence, **people)
    # A bound that no attacker could break, as printed, says nothing.
    return found.to_dict() if upwards(found.tighter) < 1 and found.n_codes < found.n else None
