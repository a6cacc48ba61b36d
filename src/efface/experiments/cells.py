"""A training in a process of its own: its largest resident set is its own, and its parent's memory is free again.

The process is forked from a server that has loaded the libraries and done nothing else. It ends with its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from efface.config import Config
from efface.data.load import load
from efface.engine import Job
from efface.errors import EffaceError, TrainingError
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


@dataclass(frozen=True)
class Failure:
    """Why a training did not end well.

    Attributes:
        kind: The error's class, if it is one of ours.
        text: What it says.
        trace: Where it was raised.
    """

    kind: type[EffaceError] | None
    text: str
    trace: str


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
        raise found.kind(found.text) if found.kind else RuntimeError(f"{found.text}\n{found.trace}")
    if found is None:
        raise TrainingError(_died(cell, process.exitcode or 0))
    return dict(found)


def _child(cell: Cell, pipe: Connection) -> None:
    """Train, and send the result or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(train(cell))
    except EffaceError as error:
        pipe.send(Failure(type(error), str(error), traceback.format_exc()))
    except Exception as error:
        pipe.send(Failure(None, f"{type(error).__name__}: {error}", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _died(cell: Cell, code: int) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " Was memory short? Try a smaller `engine.batch_size`." if code == -signal.SIGKILL else ""
    return f"The training of {cell.config.method.name!r} in {str(cell.folder)!r} {how}.{hint}"


__all__ = ["ORIGINAL", "Cell", "Failure", "train", "train_apart"]
