"""metrics.jsonl: one line per logged step, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """Appends lines ``{"model", "step", "epoch", "split", "metrics"}`` to a file.

    Args:
        path: The file; None keeps the lines in memory only.
        model: Which model the lines are about: original or unlearned.
    """

    def __init__(self, path: Path | None, model: str):
        self.path = path
        self.model = model
        self.lines: list[dict[str, object]] = []

    def write(self, step: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Append one line and flush it."""
        rounded = {name: float(f"{value:.6g}") for name, value in sorted(metrics.items())}
        line = {"model": self.model, "step": step, "epoch": round(epoch, 4), "split": split, "metrics": rounded}
        self.lines.append(line)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def rewind(self, step: int) -> None:
        """Drop this model's lines after ``step``; keep those of other models."""
        if self.path is None or not self.path.exists():
            return
        kept: list[dict[str, object]] = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # a line that a kill cut in half
                continue
            if line["model"] != self.model or line["step"] <= step:
                kept.append(line)
        self.lines = [line for line in kept if line["model"] == self.model]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
