"""The audit: fresh attackers on released features, beside what blind guessing and the original model give.

The code that attacks never sees how the model was trained: it gets a finished model and the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn

from efface.audit.attackers import Attacker
from efface.audit.conclude import Job, conclude, prepare
from efface.audit.features import FeatureSet, cache_key, check_layers, device_of, extract_layers, forward
from efface.audit.layers import extract_summaries, layer_map, layer_points
from efface.audit.plan import build_suite
from efface.audit.progress import bars
from efface.audit.releases import as_seen, extract_releases
from efface.audit.remembered import once
from efface.audit.result import AuditResult
from efface.audit.sections import Inquiry
from efface.audit.subject import Subject, check_outputs
from efface.audit.threat import OWN, Releases, Threat
from efface.config import AuditConfig
from efface.data.batches import normalised
from efface.data.dataset import AttributeDataset
from efface.data.schema import SPLITS
from efface.errors import AuditError, Problems, did_you_mean, expected
from efface.models.state import evaluating


def audit(
    model: nn.Module,
    data: AttributeDataset,
    at: str | Sequence[str],
    *,
    original: nn.Module | None = None,
    original_data: AttributeDataset | None = None,
    config: AuditConfig | None = None,
    attackers: Sequence[Attacker] | None = None,
    releases: Releases | None = None,
    trained_on: str = OWN,
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
        model: The model to audit; any module from images to logits.
        data: Images, target and attributes.
        at: Named layer whose output is released. Of several, the first is what the verdict is about, and the others are
            attacked in the same way.
        original: The model before unlearning: its attackers are the ceiling, and show that the suite can see.
        original_data: Images that the original is read on, where the model is meant for others of the same people, such
            as masked ones; None: the same.
        config: Who attacks, how long, and what else is looked at.
        attackers: Attackers of your own, in place of those that ``config`` names.
        releases: How often each person is released; None: as ``config`` says.
        trained_on: Whether the encoder was trained on the people of the train split (``threat.TRAINED_ON``).
        seed: Of attackers, decoders and resamples.
        cache: Folder that keeps features between audits; None: they go with the audit.
        precision: Of the models' forward pass and of the features kept: ``32-true`` (``auto``), or ``bf16-mixed``.
        progress: Whether to show progress bars on a terminal.
        name: What the audit is called in the report.

    Raises:
        AuditError: An argument is of another type, an attacker is unknown, a split is empty, or a split has nobody
            whose attribute is known.
        CutError: A model has no such layer, or the layer does not return one tensor.
    """
    _check_types(model, data, at, original, config, attackers, seed)
    seed = int(seed)  # one of NumPy's can't be written
    layers = (at,) if isinstance(at, str) else tuple(at)
    config = config or AuditConfig()
    releases = releases or Releases(config.releases)
    threat = Threat(", ".join(layers[:1]), view=config.view, trained_on=trained_on, releases=releases)
    job = prepare(config, attackers, seed, name, data_problems(data, config))
    models = {"model": model} if original is None else {"original": original, "model": model}
    source = ModelSource(models, data, layers, threat, precision, cache, original_data)
    for one in models.values():
        check_layers(one, [*layers, *(job.plan.layers if isinstance(job.plan.layers, tuple) else ())])
    with bars(progress) as shown:
        job = replace(job, shown=shown, device=device_of(model))
        if shown.told:
            classes = [column.n_classes for column in data.attributes]
            job = job.announce(source.shapes(), len(data.rows("train")), classes, len(models), data.target.n_classes)
        subjects = source.subjects(job)
        description = _describe_model(model, subjects[layers[0]].model)
        return conclude(job, subjects, _describe_data(data), description, threat, source)


@dataclass(frozen=True, eq=False)
class ModelSource:
    """Where released features come from: models and images.

    Attributes:
        models: By role.
        data: The images.
        layers: Those attacked, the released one first.
        threat: What of them is seen.
        precision: Of the forward pass.
        cache: Folder that keeps features, or None.
        unchanged: Images of the same people that the original is read on, where they are others.
    """

    models: Mapping[str, nn.Module]
    data: AttributeDataset
    layers: tuple[str, ...]
    threat: Threat
    precision: str
    cache: Path | None
    unchanged: AttributeDataset | None = None

    @property
    def people(self) -> AttributeDataset:
        """The people as they are, whatever the model is shown of them."""
        return self.data if self.unchanged is None else self.unchanged

    def images(self, role: str) -> AttributeDataset:
        """What a model is read on."""
        return self.people if role == "original" else self.data

    def subjects(self, job: Job) -> dict[str, Subject]:
        """Compute what is attacked, layer by layer; each model runs once."""
        sets = {role: self._extract(role, job) for role in self.models}
        schema = self.data.schema
        for role, found in sets.items():
            outputs = next(iter(found[self.layers[0]].logits.values())).shape[1]
            check_outputs(role, outputs, schema.target)
        return {
            layer: Subject(
                model=sets["model"][layer],
                original=sets["original"][layer] if "original" in sets else None,
                attributes=schema.attributes,
                others=schema.others,
                preserved=tuple(column.name for column in schema.preserved),
                target=schema.target,
                rows=self.data.splits if self.threat.trained_on == OWN else {},
                split=job.config.split,
            )
            for layer in self.layers
        }

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of one person's features at each layer, from two images."""
        model = self.models["model"]
        if self.threat.view != "features":
            return [(self.data.target.n_classes,)] * len(self.layers)
        check_layers(model, self.layers)
        images = normalised(torch.from_numpy(self.data.images[:2].copy())).to(device_of(model))
        with evaluating(model):
            released, _ = forward(model, images, self.layers)
        return [tuple(released[layer].shape[1:]) for layer in self.layers]

    def layer_map(self, inquiry: Inquiry, wanted: str | Sequence[str]) -> dict[str, Any]:
        """Probe every attribute from the input to the logits."""
        first = next(iter(self.models.values()))
        example = normalised(torch.from_numpy(self.data.images[:2].copy())).to(device_of(first))
        if isinstance(wanted, str):
            layers = layer_points(first, example, at=self.layers)
        else:
            layers = layer_points(first, example, at=[*self.layers, *wanted], most=0, fewest=0)
        sets = {role: self._summaries(role, layers, inquiry) for role in self.models}
        attributes = inquiry.subject.attributes
        probing = inquiry.probing("layers", len(attributes) * (len(sets) * len(layers) - (len(sets) - 1)))
        before = sets.get("original")
        return {
            column.name: layer_map(
                sets["model"], before, column, inquiry.subject.task, probing, self.layers[0]
            ).to_dict()
            for column in attributes
        }

    def _extract(self, role: str, job: Job) -> dict[str, FeatureSet]:
        splits = self._splits(job.config.split)
        title = "features of the original" if role == "original" else "features of the model"
        people = sum(len(self.data.rows(name)) for name in splits)
        advance = job.shown.open(title, people)
        if role != "original" or self.cache is not None:
            return self._released(role, splits, title, advance)
        given = self.models[role], self.images(role), str(self.layers), splits, self.precision
        return once(
            lambda: f"features {cache_key(*given)} {self.threat.releases} {self.threat.view}",
            lambda: self._released(role, splits, title, advance),
            lambda: advance(title, people),
        )

    def _released(
        self, role: str, splits: Sequence[str], title: str, advance: Callable[[str, int], None]
    ) -> dict[str, FeatureSet]:
        model = self.models[role]
        more: dict[str, Any] = {"precision": self.precision, "cache": self.cache}
        more["tick"] = lambda n: advance(title, n)
        releases = self.threat.releases
        if releases.kind == "one":
            found = extract_layers(model, self.images(role), self.layers, splits, **more)
        else:
            found = {at: extract_releases(model, self.images(role), at, releases, splits, **more) for at in self.layers}
        return {at: as_seen(one, self.threat.view) for at, one in found.items()}

    def _summaries(self, role: str, layers: Sequence[str], inquiry: Inquiry) -> dict[str, FeatureSet]:
        splits = self._splits(inquiry.subject.split)
        title = f"layers of the {role}"
        advance = inquiry.shown.open(title, sum(len(self.data.rows(name)) for name in splits))
        more: dict[str, Any] = {"precision": self.precision, "cache": self.cache}
        return extract_summaries(
            self.models[role], self.images(role), layers, splits, tick=lambda n: advance(title, n), **more
        )

    @staticmethod
    def _splits(audited: str) -> list[str]:
        return [name for name in SPLITS if name in ("train", "validation", audited)]


def _check_types(
    model: object, data: object, at: object, original: object, config: object, attackers: object, seed: object
) -> None:
    problems = Problems(AuditError)
    problems.check("model", model, nn.Module, "a torch.nn.Module")
    problems.check("data", data, AttributeDataset, "what `efface.load_dataset` returns")
    problems.check("at", at, (str, list, tuple), "a layer's name, or several")
    problems.check("original", original, (nn.Module, NoneType), "a torch.nn.Module")
    problems.check("seed", seed, Integral, "an integer")
    hint = "an efface.AuditConfig, such as AuditConfig(suite='quick')"
    problems.check("config", config, (AuditConfig, NoneType), hint)
    for one in attackers if isinstance(attackers, (list, tuple)) else ():
        problems.check("attackers", one, Attacker, "attackers of your own; by name: AuditConfig(attackers=('mlp',))")
    problems.raise_if_any()


def data_problems(data: AttributeDataset, config: AuditConfig) -> list[str]:
    """Return why data can't be audited: splits that are empty, no attribute."""
    found = []
    for name in dict.fromkeys(("train", "validation", config.split)):
        if not len(data.splits.get(name, ())):
            why = {"train": "attackers learn on it", "validation": "it picks attackers"}.get(name, "it is read")
            found.append(f"The {name} split is empty, but {why}. {did_you_mean(name, data.splits)}")
    if not data.attributes:
        found.append(expected("attributes", "at least one column to attack", ()))
    return found


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


def _describe_model(model: nn.Module, features: FeatureSet) -> dict[str, Any]:
    return {
        "name": type(model).__name__,
        "at": features.layer,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "feature_shape": list(features.shape),
        "auxiliary": None,
    }


__all__ = ["ModelSource", "audit", "build_suite"]
