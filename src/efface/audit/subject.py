"""What is audited, wherever it comes from: released features, the columns to attack, and how well the task is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from efface.audit.attack import NO_TARGET, attack_seed
from efface.audit.attackers import Budget, FeatureView, build_attacker
from efface.audit.features import FeatureSet
from efface.audit.intervals import Resampling, accuracy_interval
from efface.data.schema import Column
from efface.errors import AuditError, expected


@dataclass(frozen=True, eq=False)
class Subject:
    """What a model releases of a data set at one layer, and what the original released.

    Attributes:
        model: Features of the audited model.
        original: Of the original and the same people, or None.
        attributes: The columns to attack.
        others: Columns not asked for.
        preserved: Names of those among them that training kept on request.
        target: The main task, or None.
        rows: Per split, who the people are; empty where it is not known whom the encoder was fitted on.
        split: The people attacked.
    """

    model: FeatureSet
    original: FeatureSet | None
    attributes: tuple[Column, ...]
    others: tuple[Column, ...] = ()
    preserved: tuple[str, ...] = ()
    target: Column | None = None
    rows: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    split: str = "test"

    @property
    def task(self) -> str:
        """Name of the target's column, `NO_TARGET` if there is none."""
        return NO_TARGET if self.target is None else self.target.name

    @property
    def sets(self) -> dict[str, FeatureSet]:
        """Features by role, the original first."""
        return {"model": self.model} if self.original is None else {"original": self.original, "model": self.model}

    def with_probed_answers(self, seed: int) -> Subject:
        """Let a linear probe of the task answer where no model does, before and after."""
        if self.target is None:
            return self
        answered = {
            role: one if one.logits else replace(one, logits=probed_logits(one, self.target, seed))
            for role, one in self.sets.items()
        }
        return replace(self, model=answered["model"], original=answered.get("original"))


def without_target(features: FeatureSet) -> FeatureSet:
    """Return the features with a column in which everybody is alike, in the target's place."""
    labels = {
        split: {**columns, NO_TARGET: np.zeros(len(features.features[split]), np.int64)}
        for split, columns in features.labels.items()
    }
    return replace(features, labels=labels)


def probed_logits(features: FeatureSet, target: Column, seed: int) -> dict[str, torch.Tensor]:
    """Return what a linear probe of the task, fitted on the training people, answers in each split."""
    views = {
        name: FeatureView.of(stored, features.labels[name][target.name], target.n_classes)
        for name, stored in features.features.items()
    }
    budget = Budget(seed=attack_seed(seed, target.name, "linear"))
    fitted = build_attacker("linear").fit(views["train"], views["validation"], budget)
    everybody = {
        name: FeatureView(view.source, np.arange(len(view.source)), torch.zeros(len(view.source)).long(), view.classes)
        for name, view in views.items()
    }
    return {name: fitted.predict_logits(view) for name, view in everybody.items()}


def fidelity(subject: Subject, how: Resampling) -> dict[str, Any]:
    """Return main-task accuracy of both models, on the people whose target is known; nothing without a target.

    Raises:
        AuditError: Nobody has a label of the target, or a model has another number of outputs than it has classes.
    """
    values: dict[str, Any] = {"value": None, "ci": None, "original": None, "original_ci": None, "n": 0}
    if subject.target is None:
        return values
    target = subject.model.labels[subject.split][subject.task]
    if not (target >= 0).any():
        raise AuditError(f"Nobody in the {subject.split} split has a label of {subject.task!r}: no fidelity.")
    for role, (value, ci) in {"model": ("value", "ci"), "original": ("original", "original_ci")}.items():
        if role not in subject.sets:
            continue
        logits = subject.sets[role].logits[subject.split].numpy()
        check_outputs(role, logits.shape[1], subject.target)
        correct = (logits.argmax(1) == target)[target >= 0]
        values[value] = float(correct.mean())
        values[ci] = list(accuracy_interval(correct, how.confidence, how.resamples, how.seed))
    return {**values, "n": int((target >= 0).sum())}


def check_outputs(role: str, outputs: int, target: Column) -> None:
    """Refuse a model that does not answer the task.

    Raises:
        AuditError: It has another number of outputs than the target has classes.
    """
    if outputs != target.n_classes:
        wanted = f"a model with one output for each of the {target.n_classes} classes of {target.name}"
        raise AuditError(expected(role, wanted, f"{outputs} outputs"))
