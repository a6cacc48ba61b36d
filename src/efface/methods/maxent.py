"""Maximum-entropy adversarial representation learning: the head shall have no preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from efface.config import MethodConfig
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives import DetachmentObjective
from efface.objectives.entropy import EntropyHeads


class MaxEnt(PenalisedMethod):
    """Source: Roy and Boddeti (2019)."""

    name: ClassVar[str] = "maxent"
    summary: ClassVar[str] = "maximum-entropy adversarial learning (Roy and Boddeti): heads driven to uniform"
    suggested: ClassVar[Mapping[str, object]] = {"removal_weight": 1.0, "heads": ("conv",), "variant": "paper"}

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder and the closed-form head."""
        return plain(config)

    def place(self, site: Site) -> Crew:
        """Return the target's loss plus the certainty of heads that learn on their own."""
        heads = EntropyHeads(site.shape, site.priors, site.config)
        objective = DetachmentObjective(site.shape, site.data.image_shape, site.data.schema, heads, site.config)
        return Crew(objective, heads, heads)
