"""Checkpoints: written whole or not at all, bound to a configuration, resumed to the bit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from efface.errors import CheckpointError

VERSION = 2


class Checkpoints:
    """The checkpoint of one model's training in a run folder.

    Args:
        folder: ``checkpoints/`` of the run; None: nothing is written.
        model: Which model: original or unlearned.
        fingerprint: Of the configuration; a checkpoint of another is refused.
    """

    def __init__(self, folder: Path | None, model: str, fingerprint: str):
        self.path = folder / f"{model}.pt" if folder is not None else None
        self.fingerprint = fingerprint

    def save(self, step: int, stages: list[dict[str, Any]], seconds: float) -> None:
        """Write the state after ``step`` steps; the previous checkpoint stays until the new one is complete."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "step": step,
            "stages": stages,
            "seconds": seconds,
            "threads": torch.get_num_threads(),
        }
        partial = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            torch.save(state, partial)
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the last state, or None where there is none.

        Raises:
            CheckpointError: The file is damaged, or belongs to another configuration or version.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"Cannot read the checkpoint {self.path.name!r}: {reason}. Delete it, or start again without --resume."
            ) from None
        if state.get("version") != VERSION:
            raise CheckpointError(
                f"The checkpoint {self.path.name!r} has version {state.get('version')}; expected {VERSION}. "
                "Delete it, or start again without --resume."
            )
        if state["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"The checkpoint {self.path.name!r} was made with other settings "
                f"({state['fingerprint']} against {self.fingerprint}). "
                "Use the settings of its config.yaml, another --out, or no --resume."
            )
        return state

    def delete(self) -> None:
        """Remove the checkpoint, if any."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
