"""Adversarial gradient reversal: the extractor learns against a head that learns with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from efface.config import MethodConfig
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives.adversarial import AdversarialObjective


class Adversarial(PenalisedMethod):
    """Source: Ganin and Lempitsky (2015)."""

    name: ClassVar[str] = "adversarial"
    summary: ClassVar[str] = "adversarial gradient reversal (Ganin and Lempitsky): one backward, sign turned at the cut"
    suggested: ClassVar[Mapping[str, object]] = {"removal_weight": 1.0, "heads": ("conv",), "variant": "paper"}

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder and the closed-form head."""
        return plain(config)

    def place(self, site: Site) -> Crew:
        """Return the target's loss plus the heads' loss behind a reversal."""
        data = site.data
        objective = AdversarialObjective(site.shape, data.image_shape, data.schema, site.priors, site.config)
        return Crew(objective, objective)
