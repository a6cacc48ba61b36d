"""From released features to an audit's result: attacks, what else is looked at, and the words for both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from efface.audit.attack import Settings
from efface.audit.attackers import Attacker
from efface.audit.attribute import audit_attribute, with_aum
from efface.audit.controls import control_steps
from efface.audit.expected import Pace, cost
from efface.audit.kept import told_by_kept
from efface.audit.pictures import Drawn, draw
from efface.audit.plan import Plan, suite_problems
from efface.audit.progress import Bars
from efface.audit.result import AT_FLOOR, AuditResult
from efface.audit.sections import Inquiry, certificate, look_beyond
from efface.audit.subject import Subject, fidelity
from efface.audit.threat import Threat
from efface.config import AuditConfig
from efface.data.schema import Column
from efface.errors import AuditError, Problems

if TYPE_CHECKING:
    from efface.audit.audit import ModelSource

OPTIMISTIC = "Attackers were picked on the split they are read on: their figures are optimistic."
PROBED = "No model answers the task: its fidelity is that of a linear probe, fitted on the training people."


@dataclass(frozen=True, eq=False)
class Job:
    """How an audit is made.

    Attributes:
        config: Settings.
        plan: Who attacks, and what else is looked at.
        seed: Of everything.
        name: For the report.
        shown: Where progress is shown.
        device: Where attackers are trained.
        started: When, by ``time.perf_counter``.
        expected_s: What was told of the attackers' time before it started, or None.
    """

    config: AuditConfig
    plan: Plan
    seed: int
    name: str
    shown: Bars = field(default_factory=lambda: Bars(None))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    started: float = field(default_factory=time.perf_counter)
    expected_s: float | None = None

    def announce(
        self, shapes: Sequence[tuple[int, ...]], people: int, classes: Sequence[int], models: int, outputs: int
    ) -> Job:
        """Say who attacks, and about how long it takes, before it starts; return a job that remembers it.

        Args:
            shapes: Of one person's features, for each layer.
            people: Training people.
            classes: Of each attribute.
            models: 2 with an original.
            outputs: Number of the model's logits; 0: none.
        """
        if not self.shown.told:
            return self
        found = cost(self.plan, shapes, people, classes, models, self.config.epochs, outputs, Pace.measured())
        self.shown.say(found.describe(self.plan.suite))
        return replace(self, expected_s=round(found.total, 3))

    def settings(self, target: str, attributes: int, models: int) -> Settings:
        """Return what attackers need, with a progress bar for so many attributes, on so many models."""
        steps = models * len(self.plan.attackers) * self.plan.seeds * self.config.epochs
        controls = control_steps(self.plan.attackers, self.config.epochs)
        tick = self.shown.open("attackers", attributes * (steps + controls))
        return Settings(self.config, self.plan.attackers, target, self.seed, self.device, tick, self.plan.seeds)


def prepare(
    config: AuditConfig,
    attackers: Sequence[Attacker] | None,
    seed: int,
    name: str,
    problems: Sequence[str] = (),
) -> Job:
    """Return a job; whatever can fail for its settings fails here, with the problems found before.

    Raises:
        AuditError: An attacker is unknown or named twice, or there is none; or there were problems.
    """
    plan = Plan.of(config, attackers)
    found = Problems(AuditError)
    for text in (*suite_problems(plan.attackers), *problems):
        found.add(text)
    found.raise_if_any()
    return Job(config.model_copy(update={"epochs": plan.epochs}), plan, seed, name)


def conclude(
    job: Job,
    subjects: Mapping[str, Subject],
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    threat: Threat,
    source: ModelSource | None = None,
) -> AuditResult:
    """Attack what was released, look beyond, and put the result together.

    Args:
        job: How.
        subjects: What is attacked, by layer; the first is what the verdict is about.
        data: Section of audit.json.
        model: Section of audit.json.
        threat: What is assumed of the attacker.
        source: Models and images, for layers and pictures; None: there are none.
    """
    clock = Clock(job.started)
    clock.stop("features_s")
    first = next(iter(subjects.values()))
    settings = job.settings(first.task, len(subjects) * len(first.attributes), len(first.sets))
    found = {layer: attack_all(subject, settings) for layer, subject in subjects.items()}
    clock.stop("attacks_s")
    clock.part("controls_s", _control_seconds(found))
    entries = next(iter(found.values()))["attributes"]
    inquiry = Inquiry(first, settings, job.shown, answers=source is not None, entries=entries)
    beyond, seconds, remarks = look_beyond(inquiry, job.plan.beyond)
    clock.skip(seconds)
    remarks += told_as_numbers(entries, beyond.get("numbers") or {})
    layers = source.layer_map(inquiry, job.plan.layers) if source is not None and job.plan.layers else None
    clock.stop("layers_s", layers is not None)
    drawn = Drawn() if source is None else draw(first, source.people, settings, job.shown, read=job.plan.reads_drawings)
    clock.stop("reconstruction_s")
    at, *others = found
    return AuditResult(
        name=job.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=job.seed,
        split=job.config.split,
        confidence=job.config.confidence,
        data=data,
        model=model,
        threat=threat.to_dict(),
        fidelity=found[at]["fidelity"],
        attributes=found[at]["attributes"],
        reconstruction=drawn.quality,
        phases=clock.phases(),
        warnings=tuple(_warnings(job, source is None and first.target is not None, remarks)),
        reconstructions=drawn.pictures,
        suite=_suite(job, found),
        controls=found[at]["controls"],
        learning_curve=beyond.get("learning_curve"),
        selectivity=beyond.get("selectivity"),
        numbers=beyond.get("numbers"),
        fairness=beyond.get("fairness"),
        training_people=beyond.get("training_people"),
        intersections=beyond.get("intersections"),
        recovery=drawn.recovery,
        layers=layers,
        other_layers={layer: _other(subjects[layer], found[layer]) for layer in others} or None,
    )


def attack_all(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Attack every attribute at one layer; return fidelity, the attributes' entries, and what the controls showed."""
    task = fidelity(subject, settings.how)
    entries, controls = {}, {}
    for column in subject.attributes:
        entry = audit_attribute(subject.model, subject.original, column, settings)
        controls[column.name] = entry.pop("controls")
        entry["certificate"] = certificate(subject, column, settings.config.confidence)
        entry["kept"] = _kept(subject, column, entry, settings)
        entries[column.name] = with_aum(entry, task["value"], task["original"])
    return {"fidelity": task, "attributes": entries, "controls": controls}


def _kept(subject: Subject, column: Column, entry: Mapping[str, Any], settings: Settings) -> dict[str, Any] | None:
    """What the columns kept on request tell of an attribute."""
    kept = tuple(one for one in subject.others if one.name in subject.preserved)
    # Where the original is within noise of the floor, shares of what it leaks mean nothing.
    original = None if entry["excess_leakage"] is None else entry["original_best"]
    found = told_by_kept(subject.model, column, kept, settings, entry["floors"]["label"], original)
    return None if found is None else found.to_dict()


class Clock:
    """Seconds of one phase after the other."""

    def __init__(self, started: float):
        self.started = self.last = started
        self.parts: dict[str, float] = {}

    def stop(self, name: str, counts: bool = True) -> None:
        """End a phase; one that does not count is not named."""
        now = time.perf_counter()
        if counts:
            self.parts[name] = round(now - self.last, 3)
        self.last = now

    def part(self, name: str, seconds: float, of: str = "attacks_s") -> None:
        """Tell a part of a phase that has ended by a name of its own."""
        self.parts |= {of: round(self.parts[of] - seconds, 3), name: round(seconds, 3)}

    def skip(self, parts: Mapping[str, float]) -> None:
        """End phases that were timed elsewhere."""
        self.parts |= parts
        self.last = time.perf_counter()

    def phases(self) -> dict[str, float]:
        """Return all phases, the whole first."""
        return {"audit_s": round(self.last - self.started, 3), **self.parts}


def _suite(job: Job, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Who attacked (the skipped did not), how often, and how long each took, over all attributes, models and layers."""
    seconds: dict[str, float] = {}
    for layer in found.values():
        for entry in layer["attributes"].values():
            for row in (*entry["attackers"], *(entry["original_attackers"] or ())):
                seconds[row["name"]] = round(seconds.get(row["name"], 0.0) + row["seconds"], 3)
    return {
        "name": job.plan.suite,
        "attackers": list(seconds),
        "seeds": job.plan.seeds,
        "epochs": job.config.epochs,
        "beyond": list(job.plan.beyond),
        "expected_s": job.expected_s,
        "seconds": seconds,
    }


def _control_seconds(found: Mapping[str, Mapping[str, Any]]) -> float:
    return sum(one["seconds"] for layer in found.values() for one in layer["controls"].values())


def told_as_numbers(entries: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[str]:
    """Return a warning for each attribute whose class is at its floor while the number behind it is told.

    Args:
        entries: What attackers found of the classes, by attribute.
        numbers: What regressors found of the numbers.

    Example:
        >>> found = {"value": {"value": 0.3, "ci": [0.2, 0.4]}, "target": {"value": 0.1}, "gain": {"ci": [0.15, 0.25]}}
        >>> told_as_numbers({"age": {"verdict": AT_FLOOR}}, {"age": found})[0][:56]
        "'age' is at its floor as a class, but features explain 3"
    """
    found = []
    for name, one in numbers.items():
        beyond = one["value"]["ci"][0] > 0 and (one["gain"] is None or one["gain"]["ci"][0] > 0)
        if entries[name]["verdict"] == AT_FLOOR and beyond:
            share = f"{one['value']['value']:.1%} ({one['value']['ci'][0]:.1%} to {one['value']['ci'][1]:.1%})"
            target = f" (the target alone: {one['target']['value']:.1%})" if one["target"] else ""
            found.append(
                f"{name!r} is at its floor as a class, but features explain {share} of the variance of its number"
                f"{target}."
            )
    return found


def _other(subject: Subject, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "feature_shape": list(subject.model.shape),
        "attributes": found["attributes"],
        "controls": found["controls"],
    }


def _warnings(job: Job, probed: bool, remarks: Sequence[str]) -> list[str]:
    found = [OPTIMISTIC] if job.config.split == "validation" else []
    return [*found, *([PROBED] if probed else []), *remarks]
