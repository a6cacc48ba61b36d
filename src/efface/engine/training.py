"""All that an executor needs to make the steps of one training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.engine.job import Evaluate, Job
from efface.engine.ledger import Ledger
from efface.engine.stages import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Training:
    """All that an executor needs to make the steps of one training.

    Attributes:
        fabric: Device and precision.
        stages: One per block, from input to output.
        batches: Of the train split.
        ledger: Log, checkpoints, and when they are due.
        config: The training loop's settings.
        job: Seed and names.
        evaluate: Figures of the validation split, called after each epoch; None: no figures.
    """

    fabric: Fabric
    stages: Sequence[Stage]
    batches: Batches
    ledger: Ledger
    config: EngineConfig
    job: Job
    evaluate: Evaluate | None = None
