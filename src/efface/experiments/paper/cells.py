"""A cell of a table: settings, one method, one seed. Finished, it is a JSON of its own; until then it resumes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from efface.audit import AuditResult, audit
from efface.config import Config
from efface.data.dataset import AttributeDataset
from efface.data.load import load
from efface.engine import Job
from efface.errors import CheckpointError
from efface.experiments.environment import describe, peak_rss_mb
from efface.experiments.folder import RunFolder
from efface.experiments.runner import (
    Clock,
    fresh_model,
    preflight,
    refuse_several_processes,
    train_original,
    train_unlearned,
)
from efface.methods import released_data, restore
from efface.models import split

VERSION = 1
"""Of a cell's JSON; another is made anew."""


@dataclass(frozen=True)
class Cell:
    """What one number of a table is measured with.

    Attributes:
        name: Short, for files: data set, model, method, attributes.
        config: Settings, seed included.
        beside_original: Attack the original model too: ceiling, baseline 1 and excess leakage come from that.
    """

    name: str
    config: Config
    beside_original: bool = False

    @property
    def fingerprint(self) -> str:
        """Eight hex digits over every setting that changes the result; where the data lie is none."""
        values = portable(self.config)
        relevant = {name: values[name] for name in ("seed", "data", "model", "method", "engine", "audit")}
        relevant["data"].pop("cache")
        text = json.dumps([VERSION, relevant, self.beside_original], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def id(self) -> str:
        """Name of its files: other settings, other files, so that nothing finished is lost."""
        return f"{self.name}-s{self.config.seed}-{self.fingerprint}"


@dataclass(frozen=True)
class Workshop:
    """Where cells are made and kept.

    Attributes:
        folder: Of everything.
        command: As a user types it, without this machine's paths.
        progress: Whether progress bars are shown.
        tell: Hears what is going on.
    """

    folder: Path
    command: str = ""
    progress: bool = True
    tell: Callable[[str], None] = field(default=lambda _: None)

    def path(self, identity: str) -> Path:
        """Return where a finished cell's JSON lies."""
        return self.folder / "cells" / f"{identity}.json"

    def kept(self, identity: str) -> dict[str, Any] | None:
        """Return a finished cell, or None."""
        try:
            found = json.loads(self.path(identity).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("version") == VERSION else None

    def keep(self, identity: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Write a finished cell, whole or not at all."""
        path = self.path(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {"version": VERSION, "id": identity, **values}
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
        return found

    def environment(self, seed: int) -> dict[str, Any]:
        """Return versions, hardware and the command."""
        return {**describe(seed), "command": self.command}

    def run(self, cell: Cell) -> dict[str, Any]:
        """Return a cell's result: the kept one, or train and audit, from where a killed run was.

        Raises:
            EffaceError: Any problem of data, settings, training or audit.
        """
        if (found := self.kept(cell.id)) is not None:
            self.tell(f"{cell.id}: kept")
            return found
        refuse_several_processes(cell.config)
        begun = time.perf_counter()
        folder = RunFolder(self.folder / "runs" / cell.id)
        data = preflight(cell.config, lambda: load(cell.config.data, cell.config.seed, self.progress))
        sizes = ", ".join(f"{len(rows):,} {name}" for name, rows in data.splits.items())
        self.tell(f"{cell.id}: {sizes} images")
        folder.begin(cell.config, resume=True, overwrite=False)
        environment = self.environment(cell.config.seed)
        found_audit, seconds = self._make(cell, data, folder)
        self._tidy(folder)
        return self.keep(
            cell.id,
            {
                "name": cell.name,
                "seed": cell.config.seed,
                "config": portable(cell.config),
                "environment": environment,
                "seconds": {**seconds, "this_call_s": round(time.perf_counter() - begun, 1)},
                "peak_rss_mb": peak_rss_mb(),
                "images": {name: len(rows) for name, rows in data.splits.items()},
                "audit": found_audit.to_dict(),
            },
        )

    def original(self, config: Config, data: AttributeDataset) -> nn.Module:
        """Return the original model: one for all cells of the same images, network and training."""
        folder = RunFolder(self.folder / "originals" / _original_key(config, data))
        if (folder.path / "original.safetensors").exists():
            model = fresh_model(config, data, "original")
            restore(model, folder.weights("original"))
            return model
        folder.path.mkdir(parents=True, exist_ok=True)
        job = self._job(config, folder, fingerprint=folder.path.name)
        model = train_original(config, data, folder, job, Clock())
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
        return model

    def _make(self, cell: Cell, data: AttributeDataset, folder: RunFolder) -> tuple[AuditResult, dict[str, float]]:
        """Train and audit."""
        config, clock = cell.config, Clock()
        original = self.original(config, data)
        result = train_unlearned(config, data, folder, self._job(config, folder), clock, original)
        with clock.phase("audit_s"):
            found = audit(
                result.model,
                # A finished training that is resumed has its masks in the folder.
                released_data(data.preserving(config.method.preserve), folder.path, config.method, config.seed),
                split(result.model, cuts(config)).at[0],
                original=original if cell.beside_original else None,
                config=config.audit,
                seed=config.seed,
                cache=folder.path / "features",
                progress=self.progress,
                name=cell.name,
            )
        found = replace(found, model={**found.model, "name": config.model.name})
        folder.write_json("audit.json", found.to_json())
        return found, dict(clock.phases)

    def _job(self, config: Config, folder: RunFolder, fingerprint: str | None = None) -> Job:
        return Job(
            folder=folder.path,
            fingerprint=fingerprint or config.fingerprint(),
            seed=config.seed,
            resume=True,
            progress=self.progress,
            augment=(config.data.flip, config.data.shift),
        )

    @staticmethod
    def _tidy(folder: RunFolder) -> None:
        """Drop what is large and done with; the masks' classifiers stay, for figure 3."""
        shutil.rmtree(folder.path / "features", ignore_errors=True)
        for path in (folder.path / "checkpoints").glob("*.pt"):
            if "-mask-" not in path.name:
                path.unlink()


def cuts(config: Config) -> list[str]:
    """Return the layers where the model is cut."""
    at = config.model.at
    return [at] if isinstance(at, str) else list(at)


def portable(config: Config) -> dict[str, Any]:
    """Return the settings without this machine's paths."""
    values = config.model_dump(mode="json")
    values["data"] |= {"source": Path(config.data.source).name, "cache": None}
    return values


def weights_of(shop: Workshop, cell: Cell, data: AttributeDataset) -> nn.Module:
    """Return a finished cell's model.

    Raises:
        CheckpointError: The run's folder is not there any more.
    """
    folder = RunFolder(shop.folder / "runs" / cell.id)
    if not (folder.path / "model.safetensors").exists():
        raise CheckpointError(
            f"The weights of {cell.id!r} are not in {str(folder.path)!r}. Delete {str(shop.path(cell.id))!r} to make "
            "the cell again, or name another folder with --out."
        )
    model = fresh_model(cell.config, data, "unlearned")
    restore(model, folder.weights("model"))
    return model


def _original_key(config: Config, data: AttributeDataset) -> str:
    engine = config.engine.model_dump(
        mode="json", exclude={"schedule", "epochs", "lr", "checkpoint_every", "log_every", "devices", "threads"}
    )
    engine["epochs"] = config.engine.original_epochs or config.engine.epochs
    engine["lr"] = config.engine.original_lr or config.engine.lr
    model = config.model.model_dump(mode="json", exclude={"at"})
    augment = [config.data.flip, config.data.shift]
    text = json.dumps([config.seed, data.fingerprint, data.target.name, model, engine, augment], sort_keys=True)
    stem = re.sub(r"[^a-z0-9]+", "-", f"{data.name}-{config.model.name}-s{config.seed}".lower())
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
