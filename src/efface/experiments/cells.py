"""A training in a process of its own: its largest resident set is its own, and its parent's memory is free again.

The process is forked from a server that has loaded the libraries and done nothing else. It ends with its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from efface.config import Config
from efface.data.load import load
from efface.engine import Job
from efface.engine.forks import Failure, how_it_ended
from efface.errors import TrainingError
from efface.experiments.environment import peak_rss_mb
from efface.experiments.folder import RunFolder
from efface.experiments.runner import Clock, fresh_model, train_original, train_unlearned

ORIGINAL = "original"
"""File name of the original's weights, its folder's name in a comparison, and the method's."""


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        config: Its settings.
        folder: Its run folder.
        original: Run folder of the original to start from; None: this is the original's own training.
        progress: Whether to show a progress bar.
    """

    config: Config
    folder: Path
    original: Path | None = None
    progress: bool = False


def train(cell: Cell) -> dict[str, Any]:
    """Train a cell in this process, going on where an earlier attempt was killed; save its weights.

    Returns:
        ``train_s`` of the training alone, ``peak_rss_mb`` of the process, ``auxiliary`` as in audit.json.
    """
    config, folder, clock = cell.config, RunFolder(cell.folder), Clock()
    data = load(config.data, config.seed, cell.progress)
    job = Job(
        folder=cell.folder,
        fingerprint=config.fingerprint(),
        seed=config.seed,
        resume=True,
        progress=cell.progress,
        augment=(config.data.flip, config.data.shift),
    )
    if cell.original is None:
        train_original(config, data, folder, job, clock)
        return {"train_s": clock.phases["train_original_s"], "peak_rss_mb": peak_rss_mb(), "auxiliary": None}
    original = fresh_model(config, data, ORIGINAL)
    original.load_state_dict(RunFolder(cell.original).weights(ORIGINAL))
    result = train_unlearned(config, data, folder, job, clock, original)
    cost = asdict(result.auxiliary) if result.auxiliary else None
    return {"train_s": clock.phases["train_unlearned_s"], "peak_rss_mb": peak_rss_mb(), "auxiliary": cost}


def train_apart(cell: Cell) -> dict[str, Any]:
    """Train a cell in a process of its own; it is ended if this one is interrupted.

    Returns:
        What ``train`` returns.

    Raises:
        EffaceError: The training's own error, or a TrainingError if the process was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lightning_fabric"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(cell, theirs), name=f"efface-{cell.config.method.name}")
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:  # it died without a word
        found = None
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
    if isinstance(found, Failure):
        raise found.error(RuntimeError)
    if found is None:
        raise TrainingError(_died(cell, process))
    return dict(found)


def _child(cell: Cell, pipe: Connection) -> None:
    """Train, and send the result or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(train(cell))
    except Exception as error:
        pipe.send(Failure.of(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _died(cell: Cell, process: BaseProcess) -> str:
    how, short = how_it_ended(process)
    hint = " Was memory short? Try a smaller `engine.batch_size`." if short else ""
    return f"The training of {cell.config.method.name!r} in {str(cell.folder)!r} {how}.{hint}"


__all__ = ["ORIGINAL", "Cell", "train", "train_apart"]
