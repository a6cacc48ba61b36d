"""The audit: fresh attackers on released features, beside what blind guessing and the original model give.

The code that attacks never sees how the model was trained: it gets a finished model and the data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from efface.audit.attackers import Attacker, build_attacker
from efface.audit.attribute import Settings, audit_attribute, with_aum
from efface.audit.features import FeatureSet, device_of, extract
from efface.audit.intervals import accuracy_interval
from efface.audit.progress import Bars, bars
from efface.audit.reconstruction import Reconstruction, captions, choose_people, images_of, reconstruct
from efface.audit.result import AuditResult
from efface.audit.threat import Threat
from efface.config import AuditConfig
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS
from efface.errors import AuditError, Problems, did_you_mean, expected

OPTIMISTIC = "Attackers were picked on the split they are read on: their figures are optimistic."


def audit(
    model: nn.Module,
    data: AttributeDataset,
    at: str,
    *,
    original: nn.Module | None = None,
    config: AuditConfig | None = None,
    attackers: Sequence[Attacker] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    precision: str = "auto",
    progress: bool = True,
    name: str = "audit",
) -> AuditResult:
    """Attack what a model's features reveal of every attribute of the data set.

    Attackers are trained afresh on the train split, picked on validation, and read once on ``config.split``. The
    models are left as they were. How to read the result: ``docs/audit.md``.

    Args:
        model: The model to audit; any module that ``split`` can cut.
        data: Images, target and attributes.
        at: Named layer whose output is released.
        original: The model before unlearning: its attackers are the ceiling, and show that the suite can see.
        config: Who attacks, and how long.
        attackers: Attackers of your own, in place of those that ``config`` names.
        seed: Of attackers, decoders and resamples.
        cache: Folder that keeps features between audits; None: they go with the audit.
        precision: Of the models' forward pass: ``bf16-mixed`` (``auto``) or ``32-true``.
        progress: Whether to show progress bars on a terminal.
        name: What the audit is called in the report.

    Raises:
        AuditError: An attacker is unknown, a split is empty, or a split has nobody whose attribute is known.
        CutError: A model can't be cut there.
    """
    config = config or AuditConfig()
    suite = build_suite(config.attackers) if attackers is None else list(attackers)
    _check(data, config, suite)
    models = {"model": model} if original is None else {"original": original, "model": model}
    clock = [time.perf_counter()]
    with bars(progress) as shown:
        sets = {role: _extract(m, role, data, at, config, precision, cache, shown) for role, m in models.items()}
        fidelity = _fidelity(sets, data, config, seed)
        clock.append(time.perf_counter())
        epochs = len(models) * len(data.attributes) * len(suite) * config.epochs
        tick = shown.open("attackers", epochs)
        settings = Settings(config, suite, data.target.name, seed, device_of(model), tick)
        entries = {c.name: audit_attribute(sets["model"], sets.get("original"), c, settings) for c in data.attributes}
        clock.append(time.perf_counter())
        quality, pictures = _reconstruct(sets, data, settings, shown)
        clock.append(time.perf_counter())
    return AuditResult(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        split=config.split,
        confidence=config.confidence,
        data=_describe_data(data),
        model=_describe_model(model, at, sets["model"]),
        threat=Threat(at).to_dict(),
        fidelity=fidelity,
        attributes={n: with_aum(entry, fidelity["value"], fidelity["original"]) for n, entry in entries.items()},
        reconstruction=quality,
        phases=_phases(clock),
        warnings=(OPTIMISTIC,) if config.split == "validation" else (),
        reconstructions=pictures,
    )


def build_suite(names: Sequence[str]) -> list[Attacker]:
    """Return attackers by name.

    Raises:
        AuditError: Names are unknown; all are told at once.
    """
    problems, suite = Problems(AuditError), []
    for name in names:
        try:
            suite.append(build_attacker(name))
        except AuditError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return suite


def _check(data: AttributeDataset, config: AuditConfig, suite: Sequence[Attacker]) -> None:
    """Refuse what can't be audited before any time is spent; all problems at once."""
    problems = Problems(AuditError)
    names = [attacker.name for attacker in suite]
    if not suite:
        problems.add("No attacker is given: nothing can be audited. Try `efface ls attackers`.")
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(f"Attacker {name!r} is given more than once; give each its own name.")
    for name in dict.fromkeys(("train", "validation", config.split)):
        if not len(data.splits.get(name, ())):
            why = {"train": "attackers learn on it", "validation": "it picks attackers"}.get(name, "it is read")
            problems.add(f"The {name} split is empty, but {why}. {did_you_mean(name, data.splits)}")
    if not data.attributes:
        problems.add(expected("attributes", "at least one column to attack", ()))
    problems.raise_if_any()


def _extract(
    model: nn.Module,
    role: str,
    data: AttributeDataset,
    at: str,
    config: AuditConfig,
    precision: str,
    cache: Path | None,
    shown: Bars,
) -> FeatureSet:
    splits = [name for name in SPLITS if name in ("train", "validation", config.split)]
    title = "features of the original" if role == "original" else "features of the model"
    advance = shown.open(title, sum(len(data.rows(name)) for name in splits))
    return extract(model, data, at, splits, precision=precision, cache=cache, tick=lambda n: advance(title, n))


def _fidelity(sets: Mapping[str, FeatureSet], data: AttributeDataset, config: AuditConfig, seed: int) -> dict[str, Any]:
    """Main-task accuracy of both models, on the people whose target is known."""
    target = data.split_labels(config.split, data.target.name)
    if not (target >= 0).any():
        raise AuditError(f"Nobody in the {config.split} split has a label of {data.target.name!r}: no fidelity.")
    values: dict[str, Any] = {"value": None, "ci": None, "original": None, "original_ci": None}
    for role, (value, ci) in {"model": ("value", "ci"), "original": ("original", "original_ci")}.items():
        if role in sets:
            logits = sets[role].logits[config.split].numpy()
            if logits.shape[1] != data.target.n_classes:
                wanted = (
                    f"a model with one output for each of the {data.target.n_classes} classes of {data.target.name}"
                )
                raise AuditError(expected(role, wanted, f"{logits.shape[1]} outputs"))
            correct = (logits.argmax(1) == target)[target >= 0]
            values[value] = float(correct.mean())
            values[ci] = list(accuracy_interval(correct, config.confidence, config.resamples, seed))
    return {**values, "n": int((target >= 0).sum())}


def _reconstruct(
    sets: Mapping[str, FeatureSet], data: AttributeDataset, settings: Settings, shown: Bars
) -> tuple[dict[str, dict[str, float]] | None, dict[str, Any] | None]:
    """Decoders before and after; only where there is a before to compare with."""
    config = settings.config
    if not config.reconstruction or "original" not in sets:
        return None, None
    first = data.attributes[0]
    people = choose_people(data.split_labels(config.split, first.name), first.n_classes, config.faces, settings.seed)
    advance = shown.open("decoders", 2 * config.reconstruction_epochs)

    def draw(role: str, called: str) -> Reconstruction:
        return reconstruct(
            sets[role],
            data,
            people,
            split=config.split,
            epochs=config.reconstruction_epochs,
            seed=settings.seed,
            device=settings.device,
            tick=lambda: advance(f"decoder of the {called} features", 1),
        )

    found = {"original": draw("original", "original"), "unlearned": draw("model", "unlearned")}
    pictures = {
        "images": images_of(data, config.split, people),
        **{name: one.pictures for name, one in found.items()},
        "labels": np.array(captions(data, config.split, people)),
    }
    return {name: one.figures() for name, one in found.items()}, pictures


def _describe_data(data: AttributeDataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "target": data.target.name,
        "attributes": [column.name for column in data.attributes],
        "image_shape": list(data.image_shape),
        "n": {name: len(data.splits[name]) for name in SPLITS if name in data.splits},
        "warnings": list(data.warnings),
        "schema": data.schema.to_dict(),
    }


def _describe_model(model: nn.Module, at: str, features: FeatureSet) -> dict[str, Any]:
    return {
        "name": type(model).__name__,
        "at": at,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "feature_shape": list(features.shape),
        "auxiliary": None,
    }


def _phases(clock: Sequence[float]) -> dict[str, float]:
    """Seconds from start to features, attacks, decoders, and in all."""
    names = ("features_s", "attacks_s", "reconstruction_s")
    parts = {name: round(end - begin, 3) for name, (begin, end) in zip(names, pairwise(clock), strict=True)}
    return {"audit_s": round(clock[-1] - clock[0], 3), **parts}
