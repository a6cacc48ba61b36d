"""What is asked of a training, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Evaluate = Callable[["Fabric"], Mapping[str, float]]


@dataclass(frozen=True)
class Job:
    """Where a training writes and how it is named.

    Attributes:
        model: Name in logs and checkpoints: ``original`` or ``unlearned``.
        folder: Run folder; None: nothing is written.
        fingerprint: Of the configuration.
        seed: Of batches, augmentation and dropout.
        resume: Go on from the last checkpoint, if there is one.
        progress: Show a progress bar.
        augment: (mirror at random, largest shift in pixels).
    """

    model: str = "unlearned"
    folder: Path | None = None
    fingerprint: str = ""
    seed: int = 0
    resume: bool = False
    progress: bool = True
    augment: tuple[bool, int] = (True, 4)


@dataclass(frozen=True)
class History:
    """What a training leaves behind.

    Attributes:
        seconds: Time of the training, over all its resumptions.
        steps: Steps that were made.
        lines: The lines of metrics.jsonl.
    """

    seconds: float
    steps: int
    lines: list[dict[str, object]] = field(default_factory=list)
