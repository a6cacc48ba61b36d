"""Learning not to learn: gradient reversal, and an entropy term that makes the head unsure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from efface.config import MethodConfig
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives.adversarial import AdversarialObjective


class LearningNotToLearn(PenalisedMethod):
    """Source: Kim et al. (2019)."""

    name: ClassVar[str] = "learning_not_to_learn"
    summary: ClassVar[str] = "learning not to learn (Kim et al.): gradient reversal and the entropy of the head"
    suggested: ClassVar[Mapping[str, object]] = {"removal_weight": 1.0, "heads": ("conv",), "variant": "paper"}

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder and the closed-form head."""
        return plain(config)

    def place(self, site: Site) -> Crew:
        """Return the target's loss, the heads' loss behind a reversal, and the price of their certainty."""
        data, config = site.data, site.config
        objective = AdversarialObjective(
            site.shape, data.image_shape, data.schema, site.priors, config, config.entropy_weight
        )
        return Crew(objective, objective)
