"""efface: attribute unlearning for vision models, and an audit of what is left.

Names are loaded when first used: ``import efface`` is light and has no side effects.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AttributeDataset": "efface.data.dataset",
    "AuditConfig": "efface.config",
    "AuditResult": "efface.audit",
    "Config": "efface.config",
    "DataConfig": "efface.config",
    "EffaceError": "efface.errors",
    "EngineConfig": "efface.config",
    "MethodConfig": "efface.config",
    "ModelConfig": "efface.config",
    "ObjectiveWeights": "efface.objectives",
    "UnlearnedModel": "efface.methods",
    "audit": "efface.audit",
    "audit_embeddings": "efface.audit",
    "build_model": "efface.models",
    "certify": "efface.audit",
    "compare": "efface.experiments.compare",
    "find_config": "efface.experiments",
    "load_dataset": "efface.data.load",
    "render_report": "efface.report",
    "run": "efface.experiments",
    "run_to_target": "efface.experiments.target",
    "split": "efface.models",
    "unlearn": "efface.methods",
}

if TYPE_CHECKING:
    from efface.audit import AuditResult, audit, audit_embeddings, certify
    from efface.config import AuditConfig, Config, DataConfig, EngineConfig, MethodConfig, ModelConfig
    from efface.data.dataset import AttributeDataset
    from efface.data.load import load_dataset
    from efface.errors import EffaceError
    from efface.experiments import find_config, run
    from efface.experiments.compare import compare
    from efface.experiments.target import run_to_target
    from efface.methods import UnlearnedModel, unlearn
    from efface.models import build as build_model
    from efface.models import split
    from efface.objectives import ObjectiveWeights
    from efface.report import render_report


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'efface' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = getattr(home, {"build_model": "build"}.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "AttributeDataset",
    "AuditConfig",
    "AuditResult",
    "Config",
    "DataConfig",
    "EffaceError",
    "EngineConfig",
    "MethodConfig",
    "ModelConfig",
    "ObjectiveWeights",
    "UnlearnedModel",
    "audit",
    "audit_embeddings",
    "build_model",
    "certify",
    "compare",
    "find_config",
    "load_dataset",
    "render_report",
    "run",
    "run_to_target",
    "split",
    "unlearn",
]
