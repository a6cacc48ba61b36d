"""Certified release: a finite code at the cut, trained with the conditional objective and a table of its own codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from torch import nn

from efface.config import MethodConfig
from efface.data.dataset import AttributeDataset
from efface.errors import ConfigError, Problems, expected
from efface.heads.quantiser import Quantiser, check_levels
from efface.methods.layers import insert, ordered
from efface.methods.penalised import Crew, PenalisedMethod, Site, trained_kinds
from efface.objectives import DetachmentObjective, RemovalHeads
from efface.objectives.codes import CodedObjective, CodeHeads


class Quantised(PenalisedMethod):
    """One integer per image is released; what it can tell at most can be counted."""

    name: ClassVar[str] = "quantised"
    summary: ClassVar[str] = (
        "a finite code at the cut (straight-through), so that a certificate for every attacker applies"
    )

    sections: ClassVar[tuple[str, ...]] = ("code",)

    # The table knows best what the code tells: one trained head beside it is enough. A few bits must hold the target
    # first, so it weighs more than where a whole map passes, and the picture less: it would have the bits for itself.
    suggested: ClassVar[Mapping[str, object]] = {
        "input_weight": 0.001,
        "target_weight": 24.0,
        "removal_weight": 48.0,
        "heads": ("conv",),
    }

    def settings(self, config: MethodConfig) -> MethodConfig:
        """Turn off the closed-form head: few different features make its moments singular, and the table knows more."""
        return config.model_copy(update={"heads": trained_kinds(config)})

    def check(self, config: MethodConfig, data: AttributeDataset) -> None:
        """Raise ConfigError for unknown heads and attributes, codes without levels, and fewer codes than classes."""
        problems, base = Problems(ConfigError), super().check
        problems.attempt(lambda: base(config, data))
        problems.attempt(lambda: check_levels(config.code.levels))
        codes, target = math.prod(config.code.levels), data.target
        if codes < target.n_classes:
            wanted = f"levels whose product is at least {target.n_classes}, the classes of {target.name}"
            advice = f"That makes {codes} codes, which can't tell them apart. Name more levels."
            problems.add(expected("method.code.levels", wanted, list(config.code.levels), advice))
        problems.raise_if_any()

    def mount(self, model: nn.Module, at: Sequence[str], data: AttributeDataset, config: MethodConfig) -> None:
        """Put the quantiser at the first cut: what comes after is a function of its code."""
        code = config.code
        layer = partial(Quantiser, levels=code.levels, width=code.width, soften=code.softened)
        insert(model, ordered(model, at)[0], data, layer)

    def place(self, site: Site) -> Crew:
        """Return the detachment loss with heads, and with the table where the code is."""
        given = site.shape, site.data.image_shape, site.data.schema
        if not isinstance(site.layer, Quantiser):
            heads = RemovalHeads(site.shape, site.priors, site.config)
            return Crew(DetachmentObjective(*given, heads, site.config, site.before), heads, heads)
        coded = CodeHeads(site.layer, site.shape, site.priors, site.config)
        rest = coded, site.config, site.before
        if site.config.code.target_table or site.config.code.kept_table:
            return Crew(CodedObjective(site.layer, *given, *rest), coded, coded)
        return Crew(DetachmentObjective(*given, *rest), coded, coded)
