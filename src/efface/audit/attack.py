"""One attribute, one model: every attacker of a suite is fitted, picked on validation, and read once."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from efface.audit.attackers import Attacker, Budget, FeatureView, FittedAttacker
from efface.audit.attackers.ensemble import combine
from efface.audit.crew import fit_each
from efface.audit.features import FeatureSet
from efface.audit.figures import HeldOut, measure
from efface.audit.information import ConditionalProbe, target_table
from efface.audit.intervals import Resampling, mean_interval, seeded_accuracy_interval
from efface.audit.result import Attack
from efface.config import AuditConfig
from efface.data.schema import Column
from efface.errors import AuditError
from efface.shapes import Labels

ENSEMBLE = "ensemble"
"""Name of the attacker that is made of the others."""
RESAMPLES = 500
"""Most resamples for figures that are no means over people (AUC, balanced accuracy): each takes a sorting of all."""
NO_TARGET = ""
"""Name of the column that takes the target's place where there is none: everybody is alike."""


@dataclass(frozen=True)
class Settings:
    """What all attributes of an audit share.

    Attributes:
        config: Who attacks, on which split, how long.
        suite: The attackers.
        target: Column of the main task, or `NO_TARGET`.
        seed: Every attack's own seed follows from it.
        device: Where attackers are trained.
        tick: Called after each epoch with what is going on; and with the epochs that were not needed.
        seeds: How often each attacker is trained.
    """

    config: AuditConfig
    suite: Sequence[Attacker]
    target: str
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tick: Callable[[str, int], None] = lambda *_: None
    seeds: int = 1

    @property
    def how(self) -> Resampling:
        """How intervals are drawn."""
        return Resampling(self.config.confidence, self.config.resamples, self.seed)


@dataclass(frozen=True, eq=False)
class Arena:
    """What the attackers of one attribute on one model share.

    Attributes:
        train: They learn from these people.
        validation: Picks epochs, settings and attackers.
        audited: Are guessed, once.
        target: Per split, y of the people of its view, -1 where missing; None: there is no main task.
        of: Whose features these are, in words.
    """

    train: FeatureView
    validation: FeatureView
    audited: FeatureView
    target: Mapping[str, Labels] | None
    of: str

    @classmethod
    def make(cls, features: FeatureSet, column: Column, settings: Settings, of: str) -> Arena:
        """Take one attribute's people out of each split."""
        names = {"train": "train", "validation": "validation", "audited": settings.config.split}
        views = {
            role: FeatureView.of(
                features.features[split],
                features.labels[split][column.name],
                column.n_classes,
                features.logits.get(split),
            )
            for role, split in names.items()
        }
        target = None
        if settings.target != NO_TARGET:
            labels = {role: features.labels[split][settings.target] for role, split in names.items()}
            target = {role: torch.from_numpy(labels[role][views[role].rows].astype(np.int64)) for role in views}
        return cls(**views, target=target, of=of)


@dataclass(frozen=True)
class Said:
    """What one attacker said, per seed.

    Attributes:
        validation: ``[S, v, A]`` logits of the validation people.
        audited: ``[S, n, A]`` logits of the audited people.
    """

    validation: Float[Tensor, "S v A"]
    audited: Float[Tensor, "S n A"]


@dataclass(frozen=True)
class Effort:
    """How an attack went, whatever it reached.

    Attributes:
        name: Of the attacker.
        validation_accuracy: What attackers are picked by; a mean over seeds.
        epoch: The epoch that was picked, of the seed that validation prefers.
        seconds: Time to fit and predict, all seeds.
        warning: Why not to trust this attacker, or None.
        note: What else there is to say of it, or None.
    """

    name: str
    validation_accuracy: float
    epoch: int
    seconds: float
    warning: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Outcome:
    """An attack, and whom it guessed right.

    Attributes:
        attack: Its figures.
        correct: ``[S, n]``, a row per attacker seed.
        said: The logits behind them, or None.
        likelihood: Mean log q(z|h,y) of the validation people, in nats; None without a main task.
    """

    attack: Attack
    correct: Bool[np.ndarray, "S n"]
    said: Said | None = None
    likelihood: float | None = None

    @property
    def share(self) -> Float[np.ndarray, " n"]:
        """Share of the seeds that guess each person right."""
        return self.correct.mean(0)


@dataclass(frozen=True)
class Outcomes:
    """The attacks of a suite on one model.

    Attributes:
        all: In the order of the suite.
        how: Confidence for one attacker, and resamples.
        classes: Of the attribute; with two, an attacker that is always wrong knows it.
        skipped: Why attackers of the suite had nothing to read, by name.
    """

    all: tuple[Outcome, ...]
    how: Resampling
    classes: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Outcome:
        """The attacker that validation picks."""
        return max(self.all, key=lambda outcome: outcome.attack.validation_accuracy)

    @property
    def most_informed(self) -> Outcome:
        """The attacker that tells validation people the most likely; its guesses need not be the best."""
        return max(self.all, key=lambda outcome: -math.inf if outcome.likelihood is None else outcome.likelihood)

    @property
    def highest(self) -> Outcome:
        """The highest accuracy on the audited people, whichever attacker it is.

        Its interval is widened for having been picked among k attackers (Bonferroni), for either side if the attribute
        is binary.
        """
        return self._widened(max(self.all, key=lambda outcome: outcome.attack.accuracy))

    @property
    def lowest(self) -> Outcome:
        """The lowest accuracy, with its interval widened in the same way."""
        return self._widened(min(self.all, key=lambda outcome: outcome.attack.accuracy))

    def exceeds(self, floor: float) -> bool:
        """Return whether some attacker is above a floor by more than noise."""
        return self.highest.attack.ci[0] > floor or self.inverted(floor)

    def inverted(self, floor: float) -> bool:
        """Return whether some attacker on a binary attribute is wrong so often that its opposite is above a floor."""
        return self.classes == 2 and 1 - self.lowest.attack.ci[1] > floor

    def beats(self, rule: Bool[np.ndarray, " n"]) -> bool:
        """Return whether validation's pick is right more often than a rule, by more than noise, on the same people.

        Args:
            rule: Whom the rule guesses right. Paired, people tell smaller differences apart than two intervals do; and
                the pick, unlike the highest, was not chosen on them.
        """
        how, more = self.how, self.best.share - rule
        return mean_interval(more, how.confidence, how.resamples, how.seed)[0] > 0

    def _widened(self, outcome: Outcome) -> Outcome:
        choices = len(self.all) * (2 if self.classes == 2 else 1)
        ci = seeded_accuracy_interval(outcome.correct, self.how.widened(choices))
        return replace(outcome, attack=replace(outcome.attack, ci=ci))


def run_suite(features: FeatureSet, column: Column, settings: Settings, of: str) -> Outcomes:
    """Run every attacker of the suite that has something to read on one attribute of one model."""
    arena = Arena.make(features, column, settings, of)
    outputs = 0 if arena.train.logits is None else arena.train.logits.shape[1]
    members, together = members_of(settings.suite)
    skipped = {one.name: reason for one in members if (reason := one.applies(arena.train.shape, outputs))}
    for _ in skipped:
        settings.tick(f"what reads {column.name}", settings.config.epochs * settings.seeds)
    asked = [one for one in members if one.name not in skipped]
    outcomes = fit_each(lambda one: attack(one, arena, column, settings), asked, arena, settings)
    if not outcomes:
        reasons = " ".join(skipped.values())
        raise AuditError(f"None of the attackers has anything to read of {column.name!r}: {reasons}")
    if together:
        outcomes += [combined(outcomes, arena, settings)] if len(outcomes) > 1 else []
        settings.tick(f"ensemble on {column.name}", settings.config.epochs * settings.seeds)
    return Outcomes(tuple(outcomes), settings.how, column.n_classes, skipped)


def members_of(suite: Sequence[Attacker]) -> tuple[list[Attacker], bool]:
    """Return the attackers that are fitted, and whether an ensemble is made of what they say."""
    together = any(attacker.name == ENSEMBLE for attacker in suite) and len(suite) > 1
    return [attacker for attacker in suite if not (together and attacker.name == ENSEMBLE)], together


def attack(attacker: Attacker, arena: Arena, column: Column, settings: Settings) -> Outcome:
    """Fit an attacker, once per seed, and read it."""
    start = time.perf_counter()
    fitted = [fit_once(attacker, arena, column, settings, number) for number in range(settings.seeds)]
    said = Said(*(_logits(fitted, view) for view in (arena.validation, arena.audited)))
    picked = max(fitted, key=lambda one: one.validation_accuracy)
    effort = Effort(
        attacker.name,
        float(np.mean([one.validation_accuracy for one in fitted])),
        picked.epoch,
        round(time.perf_counter() - start, 3),
        next((one.warning for one in fitted if one.warning), None),
    )
    return judge(effort, said, arena, settings.how)


def combined(members: Sequence[Outcome], arena: Arena, settings: Settings) -> Outcome:
    """Combine what attackers said, seed by seed; nothing is trained or read again."""
    start = time.perf_counter()
    spoken = {one.attack.name: one.said for one in members if one.said is not None}
    combinations, audited, validation = [], [], []
    for seed in range(settings.seeds):
        found = combine(
            {n: said.validation[seed] for n, said in spoken.items()}, arena.validation.labels, settings.seed
        )
        combinations.append(found)
        validation.append(found.logits({name: said.validation[seed] for name, said in spoken.items()}))
        audited.append(found.logits({name: said.audited[seed] for name, said in spoken.items()}))
    first = combinations[0]
    weights = sorted(first.weights.items(), key=lambda pair: -pair[1])
    effort = Effort(
        ENSEMBLE,
        float(np.mean([one.validation_accuracy for one in combinations])),
        len(weights),
        round(time.perf_counter() - start, 3),
        note=first.note or ", ".join(f"{name} {weight:.0%}" for name, weight in weights),
    )
    return judge(effort, Said(torch.stack(validation), torch.stack(audited)), arena, settings.how)


def judge(effort: Effort, said: Said, arena: Arena, how: Resampling) -> Outcome:
    """Measure what an attacker said of the audited people."""
    target = None if arena.target is None else arena.target["audited"]
    given = conditional(said, arena)
    held_out = HeldOut(said.audited, arena.audited.labels, target, None if given is None else given.audited)
    found = measure(held_out, replace(how, resamples=min(how.resamples, RESAMPLES)))
    named = {
        "bits": found.bits,
        "balanced_accuracy": found.balanced_accuracy,
        "auc": found.auc,
        "conditional_bits": found.bits_given_target,
    }
    figures: dict[str, Any] = {name: figure.value if figure else None for name, figure in named.items()}
    figures |= {f"{name}_ci": figure.ci if figure else None for name, figure in named.items()}
    attack = Attack(
        **vars(effort),
        accuracy=found.accuracy.value,
        ci=seeded_accuracy_interval(held_out.correct, how),
        **figures,
        seeds=found.seeds,
        per_seed=tuple(float(share) for share in held_out.correct.mean(1)),
    )
    likelihood = None
    if given is not None:
        labels = arena.validation.labels.expand(len(given.validation), -1)
        likelihood = -float(F.cross_entropy(given.validation.flatten(0, 1), labels.flatten()))
    return Outcome(attack, held_out.correct, said, likelihood)


def conditional(said: Said, arena: Arena) -> Said | None:
    """Return logits of q(z|h,y), fitted on validation; None without a main task."""
    if arena.target is None:
        return None
    train, validation, audited = (arena.target[role] for role in ("train", "validation", "audited"))
    targets = int(max(y.max() for y in (train, validation, audited))) + 1
    table = target_table(train.numpy(), arena.train.labels.numpy(), max(targets, 1), arena.train.classes)
    fits = [ConditionalProbe.fit(row, arena.validation.labels, validation, table) for row in said.validation]
    return Said(
        torch.stack([fit.logits(row, validation) for fit, row in zip(fits, said.validation, strict=True)]),
        torch.stack([fit.logits(row, audited) for fit, row in zip(fits, said.audited, strict=True)]),
    )


def attack_seed(seed: int, column: str, attacker: str, number: int = 0) -> int:
    """Return the seed of one fit: the same before and after, so that two attacks differ in the features only."""
    text = f"{seed} {column} {attacker}" + (f" {number}" if number else "")
    return zlib.crc32(text.encode())


def fit_once(attacker: Attacker, arena: Arena, column: Column, settings: Settings, number: int = 0) -> FittedAttacker:
    """Fit an attacker with the seed of a number; ``settings.tick`` hears of every epoch."""
    config, used = settings.config, 0
    doing = f"{attacker.name} reads {column.name} from {arena.of}"

    def tick() -> None:
        nonlocal used
        used += 1
        settings.tick(doing, 1)

    seed = attack_seed(settings.seed, column.name, attacker.name, number)
    budget = Budget(config.epochs, config.batch_size, seed, settings.device, tick)
    fitted = attacker.fit(arena.train, arena.validation, budget)
    settings.tick(doing, config.epochs - used)
    return fitted


def _logits(fitted: Sequence[FittedAttacker], view: FeatureView) -> Float[Tensor, "S n A"]:
    return torch.stack([one.predict_logits(view).float() for one in fitted])


def known_labels(
    features: FeatureSet, column: Column, settings: Settings
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return target and attribute of the audited people whose attribute is known."""
    labels = features.labels[settings.config.split]
    known = labels[column.name] >= 0
    z = labels[column.name][known]
    return (np.zeros_like(z) if settings.target == NO_TARGET else labels[settings.target][known]), z


def check_attribute(features: FeatureSet, column: Column, audited: str) -> None:
    """Refuse an attribute that can't be attacked.

    Raises:
        AuditError: A split has nobody whose attribute is known, or training people of one class only.
    """
    for split in dict.fromkeys(("train", "validation", audited)):
        if not (features.labels[split][column.name] >= 0).any():
            raise AuditError(f"Nobody in the {split} split has a label of {column.name!r}: it can't be attacked.")
    labels = features.labels["train"][column.name]
    known = np.unique(labels[labels >= 0])
    if len(known) < 2:
        only = column.classes[int(known[0])]
        raise AuditError(f"Everybody in the train split has {column.name!r} = {only!r}: there is nothing to learn.")
