"""A search for weights: several processes join one study in a file, weak trials are cut short, a killed one goes on.

The file is a journal of optuna's, which processes and machines that share a folder append to in turn. It needs no
database server, and none of optuna's database libraries is loaded.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Any

from efface.audit.remembered import remembering
from efface.audit.selectivity import least_kept
from efface.engine.seeds import derive
from efface.engine.threads import most_threads
from efface.errors import ConfigError, EffaceError, Problems, TrainingError, expected
from efface.experiments.sweep_plan import Sweep

if TYPE_CHECKING:
    from optuna import Study, Trial

STUDY, JOURNAL = "weights", "study.log"
MOST_FAILURES = 5
"""Trainings in a row that may fail before a worker gives up."""
SHARE = 4
"""A trial is first trained for a quarter of the epochs; one that is then below the median of its predecessors ends."""


def sweep(plan: Sweep, workers: int = 1, tell: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Search until so many trials are finished or pruned; export the best trade-offs and a page.

    Another process, or another machine that shares the folder, joins by the same call. A killed one goes on by it.

    Args:
        plan: What, and where.
        workers: Processes of this call.
        tell: Hears what is going on.

    Returns:
        The files that were written.

    Raises:
        ConfigError: A setting can't be searched, or the folder belongs to another sweep.
        EffaceError: Whatever a trial can meet, except a loss that is not finite: such a trial is marked as failed.
    """
    from efface.experiments.sweep_page import write

    plan.check()
    if workers < 1:
        raise ConfigError(expected("--workers", "an integer larger than 0", workers))
    study = open_study(plan)
    reclaim(study)
    before = ceiling(plan, tell)
    if workers == 1 or plan.trials == 1:
        work(plan, before, 0, tell)
    else:
        _share(plan, before, workers)
    return write(plan, study)


def open_study(plan: Sweep, worker: int = 0) -> Study:
    """Return the study of a folder, begun if there is none; a study of other settings is refused.

    Raises:
        ConfigError: The folder holds a sweep of other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=STUDY,
        storage=JournalStorage(JournalFileBackend(str(plan.folder / JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=derive(plan.config().seed, "sweep", worker, os.getpid()) % 2**31),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
    )
    config = plan.config()
    settings = {"config": config.fingerprint(), "ranges": [[r.name, r.low, r.high] for r in plan.ranges]}
    if config.method.preserve:
        settings["score"] = "kept"
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
        study.enqueue_trial(plan.start())
    elif known != settings:
        raise ConfigError(
            f"{str(plan.folder)!r} holds a sweep of other settings or ranges. Give the same ones to join it, or name "
            "another folder with --out."
        )
    return study


def ceiling(plan: Sweep, tell: Callable[[str], None]) -> dict[str, float]:
    """Return what the strongest attacker gets from the original model, by attribute.

    The preset's own weights are trained for it: they are the first trial too.

    Raises:
        ConfigError: The original tells nothing of an attribute: there is nothing to trade.
    """
    tell("The original model, and the preset's own weights")
    cell, problems = plan.cell(plan.start(), plan.config().engine.epochs), Problems(ConfigError)
    found = plan.workshop(tell).run(cell)["audit"]["attributes"]
    for name, entry in found.items():
        if entry["excess_leakage"] is None:
            problems.add(
                f"The original model tells nothing of {name!r} beyond the label: there is nothing to trade. Try more "
                "images, or more epochs of the original (engine.original_epochs)."
            )
    problems.raise_if_any()
    return {name: float(entry["original_best"]) for name, entry in found.items()}


def work(plan: Sweep, before: Mapping[str, float], worker: int, tell: Callable[[str], None] = lambda _: None) -> None:
    """Make one trial after the other until there are enough; a training that fails counts for none.

    Raises:
        TrainingError: So many failed in a row that the next would too.
    """
    study, failed = open_study(plan, worker), 0
    with remembering():
        while len(_wanted(study)) < plan.trials:
            try:
                study.optimize(lambda trial: score_of(plan, trial, before, tell), n_trials=1)
                failed = 0
            except TrainingError as error:
                failed += 1
                tell(f"Failed: {error}")
                if failed == MOST_FAILURES:
                    raise TrainingError(
                        f"{failed} trials in a row failed, the last with: {error} Try lower ranges in --search."
                    ) from error


def score_of(plan: Sweep, trial: Trial, before: Mapping[str, float], tell: Callable[[str], None]) -> float:
    """Train and audit a choice of weights, in two rungs; return its score, 0 to 1."""
    from optuna import TrialPruned

    trial.set_user_attr("worker", _this_process())
    values = {one.name: trial.suggest_float(one.name, one.low, one.high, log=True) for one in plan.ranges}
    whole = plan.config().engine.epochs
    rungs = sorted({-(-whole // SHARE), whole})
    score = 0.0
    for epochs in rungs:
        tell(f"Trial {trial.number}, {epochs} epoch(s): {', '.join(f'{n}={v:.4g}' for n, v in values.items())}")
        figures = trade_off(plan.workshop(tell).run(plan.cell(values, epochs))["audit"], before)
        score = figures["score"]
        for name, value in figures.items():
            trial.set_user_attr(name, value)
        trial.report(score, epochs)
        if epochs < whole and trial.should_prune():
            raise TrialPruned
    return score


def trade_off(audit: Mapping[str, Any], before: Mapping[str, float]) -> dict[str, float]:
    """Return fidelity, excess leakage of the leakiest attribute, the least share of columns to keep, and their score.

    The score is the harmonic mean of fidelity, 1 − excess leakage and, where columns are kept on request, that share,
    at most 1. Without such columns it is AUM, with what the label says taken off.

    Args:
        audit: Content of audit.json.
        before: Accuracy of the strongest attacker on the original, by attribute.
    """
    from efface.audit.metrics import excess_leakage

    found = [
        excess_leakage(entry["best"]["accuracy"], before[name], entry["floors"]["label"])
        for name, entry in audit["attributes"].items()
    ]
    excess = max(value for value in found if value is not None)
    fidelity = float(audit["fidelity"]["value"])
    figures = {"fidelity": fidelity, "excess": excess}
    if (kept := least_kept(audit)) is not None:
        figures["kept"] = kept
    score = harmonic_mean([fidelity, 1 - min(1.0, excess), *([] if kept is None else [min(max(kept, 0.0), 1.0)])])
    return {**figures, "score": score}


def reclaim(study: Study) -> None:
    """Begin trials again whose process on this machine is gone; their training goes on from its last checkpoint."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("worker")
        if owner is None or (owner["host"] == socket.gethostname() and owner["began"] != _began(owner["pid"])):
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)


def _wanted(study: Study) -> list[Any]:
    """Trials that count: finished, pruned, and under way."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))


def _share(plan: Sweep, before: Mapping[str, float], workers: int) -> None:
    """Let several processes work; raise what the first of them met.

    Raises:
        EffaceError: A worker met it.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    quiet = replace(plan, progress=False)
    with _threads(most_threads(workers)):
        processes = [context.Process(target=_worker, args=(quiet, before, n, theirs)) for n in range(workers)]
        for process in processes:
            process.start()
    try:
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if ours.poll():
        raise ours.recv()
    if broken := [process.exitcode for process in processes if process.exitcode]:
        raise TrainingError(
            f"{len(broken)} of {workers} workers died (exit codes {', '.join(map(str, broken))}). Was memory short? "
            "Go on "
            "with the same command, perhaps with fewer --workers."
        )


def _worker(plan: Sweep, before: Mapping[str, float], number: int, pipe: Any) -> None:
    try:
        work(plan, before, number)
    except EffaceError as error:
        pipe.send(error)
    except KeyboardInterrupt:
        return


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let processes that are started meanwhile use so many threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def _began(pid: int) -> str | None:
    """Return when a process of this machine began, in the kernel's ticks; None if it is gone, "" if unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


__all__ = ["sweep"]
