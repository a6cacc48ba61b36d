"""The original model: the main task alone, end to end. The paper's baseline 1 and every audit's ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.dataset import AttributeDataset
from efface.engine import Job, Part, fit
from efface.methods.base import Method, UnlearnedModel
from efface.methods.evaluation import fidelity_of
from efface.objectives import ClassifierObjective


class Original(Method):
    """Cross-entropy of the target."""

    name: ClassVar[str] = "original"
    summary: ClassVar[str] = "the main task alone, nothing unlearned: baseline 1 and the ceiling of every audit"

    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Train the whole model as one block."""
        del config
        part = Part(model, ClassifierObjective(engine.label_smoothing))
        settings = engine.model_copy(
            update={"epochs": engine.original_epochs or engine.epochs, "lr": engine.original_lr or engine.lr}
        )
        history = fit([part], data, settings, job, fidelity_of(model, data))
        return UnlearnedModel(model, tuple(at), self.name, history)
