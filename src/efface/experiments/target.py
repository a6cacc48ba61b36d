"""``efface run --target-leakage``: the least removal weight that reaches a stated excess leakage on validation people.

A search of few steps, each a whole training: the weight is multiplied until the target is between two weights, then the
interval is halved on a logarithmic scale. Fresh attackers of the suite ``quick`` measure each model on the validation
people, on whom they also pick their epochs: a little in the attackers' favour. Test people are read once, by the run
that follows with the chosen weight. Leakage falls with the weight only by and large, so the result is the least weight
*tried* that reached the target, no more.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from efface.audit import audit
from efface.audit.remembered import remembering
from efface.audit.selectivity import least_kept
from efface.config import Config
from efface.data.dataset import AttributeDataset
from efface.data.load import load
from efface.engine.checkpoints import Checkpoints
from efface.engine.devices import device_for
from efface.errors import AuditError, ConfigError, Problems, expected
from efface.experiments.cells import ORIGINAL, Cell, train_apart
from efface.experiments.environment import describe
from efface.experiments.folder import RunFolder
from efface.experiments.runner import RunResult, fresh_model, preflight, refuse_auto, refuse_several_processes, run
from efface.methods import restore
from efface.models import split
from efface.report.pareto import Point, save_pareto

WEIGHTED = (
    "adversarial",
    "detachment",
    "detachment_leace",
    "hsic",
    "learning_not_to_learn",
    "maxent",
    "narrow",
    "quantised",
    "vclub",
)
"""Methods that ``method.removal_weight`` steers."""
TRIALS, FACTOR, CLOSE = 6, 4.0, 1.25
"""Most trainings; step while the target is not enclosed; ratio of two weights at which the search ends."""


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Attributes:
        weight: ``method.removal_weight``.
        leakage: Excess leakage on validation, of the attribute that leaks most.
        fidelity: On validation.
        kept: Least share of the columns kept on request, on validation; None where there is none.
    """

    weight: float
    leakage: float
    fidelity: float
    kept: float | None = None


def search(measure: Callable[[float], Trial], start: float, target: float, trials: int = TRIALS) -> list[Trial]:
    """Return the trials of a search for the least weight whose leakage is at most the target, in their order.

    Example:
        >>> found = search(lambda w: Trial(w, 1 / w, 0.9), start=1.0, target=0.1)
        >>> [round(trial.weight, 1) for trial in found]
        [1.0, 4.0, 16.0, 8.0, 11.3, 9.5]
        >>> round(chosen(found, 0.1).weight, 1)
        11.3
    """
    made: list[Trial] = []
    weight = start
    while len(made) < trials:
        made.append(measure(weight))
        enough = [trial.weight for trial in made if trial.leakage <= target]
        least = min(enough, default=math.inf)
        short = [trial.weight for trial in made if trial.leakage > target and trial.weight < least]
        if not enough:
            weight = FACTOR * max(short)
        elif not short:
            weight = least / FACTOR
        elif least / max(short) < CLOSE:
            break
        else:
            weight = math.sqrt(least * max(short))
    return made


def chosen(trials: Sequence[Trial], target: float) -> Trial:
    """Return the least weight that reached the target; where none did, the trial that leaked least."""
    reached = [trial for trial in trials if trial.leakage <= target]
    if reached:
        return min(reached, key=lambda trial: trial.weight)
    return min(trials, key=lambda trial: trial.leakage)


@dataclass
class Pursuit:
    """A search in a folder: each trial trained in a process of its own, measured, and kept.

    Attributes:
        config: The run's settings; its removal weight is where the search starts.
        target: Excess leakage to reach, a fraction.
        path: Folder of the search.
        data: Images and labels.
        progress: Whether to show progress bars.
        console: Where remarks go.
    """

    config: Config
    target: float
    path: Path
    data: AttributeDataset
    progress: bool
    console: Console

    def settings(self, weight: float) -> Config:
        """Return the run's settings with another weight."""
        return self.config.updated([f"method.removal_weight={weight!r}"])

    def place(self, weight: float) -> RunFolder:
        """Return the folder of a trial."""
        return RunFolder(self.path / f"weight-{weight:.4g}")

    def measure(self, weight: float) -> Trial:
        """Train with a weight and attack the validation people; what is done is not done again."""
        config, folder = self.settings(weight), self.place(weight)
        if kept := folder.read_json("trial.json"):
            return Trial(**kept)
        origin = RunFolder(self.path / ORIGINAL)
        origin.path.mkdir(parents=True, exist_ok=True)
        folder.path.mkdir(parents=True, exist_ok=True)
        if not (origin.path / f"{ORIGINAL}.safetensors").exists():
            train_apart(Cell(self.config, origin.path, None, self.progress))
        train_apart(Cell(config, folder.path, origin.path, self.progress))
        trial = self._attacked(config, origin, folder, weight)
        folder.write_json("trial.json", asdict(trial))
        told = f"removal weight {weight:.4g}: excess leakage {trial.leakage:.3f}, fidelity {trial.fidelity:.3f}"
        told += "" if trial.kept is None else f", kept on request {trial.kept:.3f}"
        self.console.print(f"{told} (validation)", highlight=False)
        return trial

    def _attacked(self, config: Config, origin: RunFolder, folder: RunFolder, weight: float) -> Trial:
        device = device_for(config.engine)
        model = restore(fresh_model(config, self.data, "model"), folder.weights("model")).to(device)
        original = restore(fresh_model(config, self.data, ORIGINAL), origin.weights(ORIGINAL)).to(device)
        kept = config.method.preserve
        changes: dict[str, Any] = {"suite": "quick", "attackers": None, "layers": None}
        changes |= {"beyond": ("selectivity",) if kept else (), "split": "validation", "reconstruction": False}
        suite = config.audit.model_copy(update=changes)
        at = config.model.at if isinstance(config.model.at, str) else config.model.at[0]
        name = split(model, at).at[0]
        found = audit(
            model,
            self.data.preserving(kept),
            name,
            original=original,
            config=suite,
            seed=config.seed,
            progress=self.progress,
        )
        leaks = [entry["excess_leakage"] for entry in found.attributes.values()]
        if None in leaks:
            raise AuditError(
                "No attacker of the suite quick sees every attribute in the original on validation people: there is "
                "no excess leakage to reach. Try `efface run` without --target-leakage, or more validation people."
            )
        return Trial(weight, max(leaks), found.fidelity["value"], least_kept(found.to_dict()))

    def write(self, trials: Sequence[Trial], best: Trial) -> None:
        """Write front.json and the plot of what was seen."""
        reached = best.leakage <= self.target
        found = {
            "target_leakage": self.target,
            "reached": reached,
            "removal_weight": best.weight,
            "split": "validation",
            "suite": "quick",
            "trials": [asdict(trial) for trial in trials],
            "environment": describe(self.config.seed),
        }
        RunFolder(self.path).write_json("front.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        points = [Point(f"{trial.weight:.3g}", ((trial.leakage, trial.fidelity),)) for trial in trials]
        save_pareto(points, self.path / "front")

    def hand_over(self, best: Trial, folder: RunFolder) -> Config:
        """Give the finished trainings to the run's folder, so that they are not repeated; return its settings."""
        config, checkpoints = self.settings(best.weight), folder.path / "checkpoints"
        if folder.config().fingerprint() == config.fingerprint() and (checkpoints / "unlearned.pt").exists():
            return config
        lines = ""
        for name, source, made_with in (
            ("original", self.path / ORIGINAL, self.config),
            ("unlearned", self.place(best.weight).path, config),
        ):
            # The original's training does not read the removal weight: it is the same under either configuration.
            state = Checkpoints(source / "checkpoints", name, made_with.fingerprint()).load()
            if state is not None:
                mine = Checkpoints(checkpoints, name, config.fingerprint())
                mine.save(state["step"], state["stages"], state["seconds"])
            lines += (source / "metrics.jsonl").read_text(encoding="utf-8")
        (folder.path / "metrics.jsonl").write_text(lines, encoding="utf-8")
        (folder.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        return config


def run_to_target(
    config: Config,
    target: float,
    out: Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
    trials: int = TRIALS,
) -> RunResult:
    """Find the removal weight for a stated excess leakage, then make the run with it.

    Args:
        config: What to do; the search starts at its ``method.removal_weight``.
        target: Excess leakage on validation, 0 to 1.
        out: The run folder; the search is in its folder ``search``. None: ``runs/NAME``.
        resume: Go on where a killed search or run was.
        overwrite: Replace a run that is there.
        progress: Show progress bars.
        console: Where remarks go.
        trials: Most trainings of the search.

    Raises:
        EffaceError: The target is no fraction, the method has no removal weight, or any problem of the run.
    """
    console = console or Console(quiet=True)
    check(config, target)
    refuse_auto(config, "--target-leakage")
    refuse_several_processes(config)
    folder = RunFolder(Path(out)) if out is not None else RunFolder.default(config.name, resume)
    own = RunFolder(folder.path / "search")
    (own if resume else folder).check(config, resume, overwrite)
    if resume and not own.path.exists() and folder.path.exists() and any(folder.path.iterdir()):
        raise ConfigError(
            f"{str(folder.path)!r} holds no search to go on with. Name another folder with --out, or replace what is "
            "there with --overwrite instead of --resume."
        )
    data = preflight(config, lambda: load(config.data, config.seed, progress))
    if not resume:
        shutil.rmtree(own.path, ignore_errors=True)
    if not resume or not (folder.path / "config.yaml").exists():
        folder.begin(config, False, overwrite)
    own.begin(config, resume=True, overwrite=False)
    pursuit = Pursuit(config, target, own.path, data, progress, console)
    with remembering():
        made = search(pursuit.measure, config.method.removal_weight or 1.0, target, trials)
    best = chosen(made, target)
    pursuit.write(made, best)
    reached = "reaches" if best.leakage <= target else "comes nearest to, but does not reach,"
    console.print(f"Removal weight {best.weight:.4g} {reached} {target:g} on validation.", highlight=False)
    return run(pursuit.hand_over(best, folder), folder.path, resume=True, progress=progress, console=console)


def check(config: Config, target: float) -> None:
    """Raise ConfigError for a target that is no fraction, a method without a weight, and weights of the user's own."""
    problems = Problems(ConfigError)
    if not 0 <= target <= 1:
        hint = "0: nothing beyond what the target tells, 1: as the original."
        problems.add(expected("--target-leakage", "between 0 and 1", target, hint))
    if config.method.name not in WEIGHTED:
        hint = f"Try one of {', '.join(WEIGHTED)}."
        problems.add(expected("method.name", "a method that has a removal weight to set", config.method.name, hint))
    if config.model.weights is not None:
        problems.add("--target-leakage trains the original itself and does not go with `model.weights`.")
    problems.raise_if_any()


__all__ = ["Pursuit", "Trial", "chosen", "run_to_target", "search"]
