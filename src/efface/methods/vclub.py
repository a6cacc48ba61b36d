"""vCLUB minimisation: an estimate of the information from above takes the place of an adversary's loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from efface.config import MethodConfig
from efface.methods.penalised import Crew, PenalisedMethod, Site, plain
from efface.objectives import DetachmentObjective, RemovalHeads


class VClub(PenalisedMethod):
    """Source: Cheng et al. (2020)."""

    name: ClassVar[str] = "vclub"
    summary: ClassVar[str] = "vCLUB minimisation (Cheng et al.): an upper estimate of I(h;z) from a learned q(z|h)"
    suggested: ClassVar[Mapping[str, object]] = {"removal_weight": 1.0, "heads": ("conv",), "variant": "paper"}

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the decoder and the closed-form head; price by vCLUB whatever `removal` says."""
        return plain(config).model_copy(update={"removal": "vclub"})

    def place(self, site: Site) -> Crew:
        """Return the target's loss plus vCLUB of heads that learn on their own."""
        heads = RemovalHeads(site.shape, site.priors, site.config)
        objective = DetachmentObjective(site.shape, site.data.image_shape, site.data.schema, heads, site.config)
        return Crew(objective, heads, heads)
