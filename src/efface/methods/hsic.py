"""HSIC minimisation: independence measured by kernels, no adversary at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from efface.config import MethodConfig
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives.dependence import DependenceObjective, DependencePenalty


class Hsic(PenalisedMethod):
    """Source: Gretton et al. (2005); as a penalty of representations, Quadrianto et al. (2019)."""

    name: ClassVar[str] = "hsic"
    summary: ClassVar[str] = "HSIC minimisation: kernel dependence of features and attribute, without adversary"
    suggested: ClassVar[Mapping[str, object]] = {"removal_weight": 4.0, "variant": "paper"}

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder."""
        return plain(config)

    def place(self, site: Site) -> Crew:
        """Return the target's loss plus the normalised HSIC of each attribute."""
        penalty = DependencePenalty(site.shape, site.priors, site.config)
        data = site.data
        objective = DependenceObjective(site.shape, data.image_shape, data.schema, penalty, site.config)
        return Crew(objective, penalty)
