"""The main job: read, train the original, unlearn, audit both, report. Defender and attacker meet only here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from torch import nn

from efface.audit import AuditResult, audit
from efface.audit.audit import build_suite
from efface.audit.features import check_layers
from efface.config import Config
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.data.load import load
from efface.engine import Job
from efface.engine.cuts import settle_cut
from efface.engine.devices import device_for, under_torchrun
from efface.engine.seeds import seed_everything
from efface.errors import CheckpointError, ConfigError, Problems, expected
from efface.experiments.environment import describe, peak_rss_mb
from efface.experiments.folder import RunFolder
from efface.methods import UnlearnedModel, find_method, released_data, restore
from efface.methods.layers import check_outputs
from efface.models import build, split
from efface.models.measure import auto_goal
from efface.models.zoo import check_name
from efface.report import render_report, write_model_card


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: The run folder.
        audit: What the attackers found.
        report: The HTML page.
    """

    folder: Path
    audit: AuditResult
    report: Path


class Clock:
    """Seconds per phase, by name."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0.0) + time.perf_counter() - begun, 3)


def run(
    config: Config,
    out: Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
) -> RunResult:
    """Make a whole run in a folder.

    Args:
        config: What to do.
        out: The run folder; None: ``runs/NAME``.
        resume: Go on where a killed run was.
        overwrite: Replace a run that is there.
        progress: Show progress bars.
        console: Where remarks go.

    Raises:
        EffaceError: Any problem of data, settings, cut, training or audit.
    """
    console = console or Console(quiet=True)
    folder = RunFolder(Path(out)) if out is not None else RunFolder.default(config.name, resume)
    refuse_several_processes(config)
    config = _resumed_cut(config, folder, resume)
    folder.check(config, resume, overwrite)
    clock = Clock()

    def read() -> AttributeDataset:
        with clock.phase("read_s"):
            return load(config.data, config.seed, progress)

    data = preflight(config, read)
    config = _settled_cut(config, data, console)
    folder.begin(config, resume, overwrite)
    folder.write_json("environment.json", describe(config.seed))
    for remark in data.warnings:
        console.print(f"[yellow]Data:[/] {escape(remark)}", highlight=False)
    job = Job(
        folder=folder.path,
        fingerprint=config.fingerprint(),
        seed=config.seed,
        resume=resume,
        progress=progress,
        augment=(config.data.flip, config.data.shift),
    )
    original = train_original(config, data, folder, job, clock)
    result = train_unlearned(config, data, folder, job, clock, original)
    extra = {"auxiliary": asdict(result.auxiliary) if result.auxiliary else None}
    clock.phases["train_s"] = round(clock.phases["train_original_s"] + clock.phases["train_unlearned_s"], 3)
    return examine(config, data, folder, clock, original, result.model, extra, progress)


def refuse_several_processes(config: Config) -> None:
    """Raise ConfigError where the command would run in several processes, which all would write its folder.

    Fabric starts the command that is running once more for each of ``engine.devices``.
    """
    advice = "Train with `efface.unlearn` in a script of yours (docs/scaling.md), then audit what it saved."
    if under_torchrun():
        raise ConfigError(expected("a whole run", "started once", "several processes of torchrun", advice))
    if config.engine.devices > 1 and config.engine.schedule != "local_parallel":
        wanted = "1 in a whole run (more with `engine.schedule=local_parallel` alone)"
        raise ConfigError(expected("engine.devices", wanted, config.engine.devices, advice))


def preflight(config: Config, read: Callable[[], AttributeDataset]) -> AttributeDataset:
    """Return the data, after trying whatever can fail before hours are spent: data, method, attackers, model and cut.

    Args:
        config: What is to be done.
        read: Returns the data.

    Raises:
        EffaceError: All problems at once.
    """
    problems = Problems(ConfigError)
    data = problems.attempt(read)
    method = problems.attempt(lambda: find_method(config.method.name))
    if method is not None and data is not None:
        problems.attempt(partial(method.check, config.method, data))
    problems.attempt(lambda: build_suite(config.audit.attackers))
    problems.attempt(lambda: device_for(config.engine))
    if data is None:
        problems.attempt(lambda: check_name(config.model.name))
    else:
        problems.attempt(partial(_check_batches, config, data))
    if data is not None and auto_goal(config.model.at) is None:
        problems.attempt(partial(_check_model, config, data))
    problems.raise_if_any()
    assert data is not None
    return data


def _check_batches(config: Config, data: AttributeDataset) -> None:
    problems, people, size = Problems(ConfigError), len(data.rows("train")), config.engine.batch_size
    problems.attempt(lambda: Batches(data, "train", size, augment=(config.data.flip, config.data.shift)))
    if size > people:
        problems.add(expected("engine.batch_size", f"at most {people}, the images of the train split", size))
    problems.raise_if_any()


def _check_model(config: Config, data: AttributeDataset) -> None:
    channels, height, width = data.image_shape
    model = fresh_model(config, data, "original")
    split(model, _cuts(config), torch.zeros(2, channels, height, width))
    check_outputs(model, data)
    if isinstance(config.audit.layers, tuple) and config.audit.layers:
        check_layers(model, config.audit.layers)


def refuse_auto(config: Config, command: str) -> None:
    """Raise ConfigError where the cut is to be measured: several trainings need one and the same."""
    if auto_goal(config.model.at) is not None:
        hint = f"Find it with `efface ls layers {config.model.name} --measure`."
        raise ConfigError(expected("model.at", f"a named layer for {command}", config.model.at, hint))


def fresh_model(config: Config, data: AttributeDataset, role: str) -> nn.Module:
    """Return the configured network, initialised by seed, or with the user's weights."""
    seed_everything(config.seed, role, "initialisation")
    return build(
        config.model.name,
        data.target.n_classes,
        data.image_shape[1],
        stem=config.model.stem,
        # Users' weights are the original's; the other model gets them from it, unless it is to start from scratch.
        weights=config.model.weights if role == "original" else None,
        **config.model.options,
    )


def train_original(config: Config, data: AttributeDataset, folder: RunFolder, job: Job, clock: Clock) -> nn.Module:
    """Train the original model, or take the user's weights as it; save it."""
    model = fresh_model(config, data, "original")
    if config.model.weights is None:
        method = find_method("original")
        named = replace(job, model="original")
        history = method.fit(model, data, _cuts(config), config.method, config.engine, named).history
        clock.phases["train_original_s"] = round(history.seconds, 3)
    else:
        clock.phases["train_original_s"] = 0.0
    folder.save_weights("original", model)
    return model


def train_unlearned(
    config: Config, data: AttributeDataset, folder: RunFolder, job: Job, clock: Clock, original: nn.Module
) -> UnlearnedModel:
    """Unlearn from the original's weights or from fresh ones; save the model."""
    model = fresh_model(config, data, "unlearned")
    if config.method.init == "original" or config.method.name == "original":
        model.load_state_dict(original.state_dict())
    method = find_method(config.method.name)
    named = replace(job, model="unlearned")
    result = method.fit(model, data, _cuts(config), config.method, config.engine, named)
    clock.phases["train_unlearned_s"] = round(result.history.seconds, 3)
    folder.save_weights("model", result.model)
    return result


def audit_again(path: Path, *, split: str | None = None, progress: bool = True, **settings: Any) -> RunResult:
    """Attack a finished run again, with fresh attackers.

    Args:
        path: The run folder.
        split: The people to attack; None: as configured.
        progress: Show progress bars.
        settings: Audit settings in place of the configured ones.

    Raises:
        CheckpointError: The folder holds no finished run.
    """
    folder = RunFolder(Path(path))
    config = folder.config()
    changes = settings | ({"split": split} if split else {})
    values = config.model_dump()
    config = Config.from_mapping(values | {"audit": values["audit"] | changes})
    weights = {name: folder.weights(name) for name in ("original", "model")}
    clock = Clock()
    with clock.phase("read_s"):
        data = load(config.data, config.seed, progress)
    models = {}
    for name, state in weights.items():
        models[name] = fresh_model(config, data, name)
        try:
            restore(models[name], state)
        except RuntimeError as error:
            raise CheckpointError(f"{name}.safetensors does not fit `{config.model.name}`: {error}") from None
        models[name].to(device_for(config.engine))
    before = folder.read_json("audit.json")
    old = before.get("phases", {})
    clock.phases |= {name: old[name] for name in ("train_original_s", "train_unlearned_s", "train_s") if name in old}
    extra = {"auxiliary": before.get("model", {}).get("auxiliary")}
    return examine(config, data, folder, clock, models["original"], models["model"], extra, progress)


def examine(
    config: Config,
    data: AttributeDataset,
    folder: RunFolder,
    clock: Clock,
    original: nn.Module,
    model: nn.Module,
    extra: dict[str, Any],
    progress: bool,
) -> RunResult:
    """Audit, write audit.json and the report."""
    with clock.phase("audit_s"):
        data = data.preserving(config.method.preserve)
        # A model that was trained on masked images is meant for such images; the original is not.
        released = released_data(data, folder.path, config.method, config.seed)
        found = audit(
            model,
            released,
            split(model, _cuts(config)).at[0],
            original=original,
            original_data=data,
            config=config.audit,
            seed=config.seed,
            cache=folder.path / "features",
            progress=progress,
            name=config.name,
        )
    found = replace(found, model={**found.model, "name": config.model.name, **extra})
    folder.save_pictures(found.reconstructions)
    found = replace(found, phases={**found.phases, **clock.phases, "peak_rss_mb": peak_rss_mb()})
    folder.write_json("audit.json", found.to_json())
    with clock.phase("report_s"):
        report = render_report(folder.path)
        write_model_card(folder.path)
    found = replace(found, phases={**found.phases, **clock.phases, "peak_rss_mb": peak_rss_mb()})
    folder.write_json("audit.json", found.to_json())
    return RunResult(folder.path, found, report)


def _resumed_cut(config: Config, folder: RunFolder, resume: bool) -> Config:
    """Where a run that goes on asks for ``auto``, take what was chosen when it began: another might be measured now."""
    if resume and auto_goal(config.model.at) is not None and (folder.path / "config.yaml").is_file():
        return _cut_at(config, folder.config().model.at)
    return config


def _settled_cut(config: Config, data: AttributeDataset, console: Console) -> Config:
    """Put named layers in the place of ``auto``: the run folder says what was trained."""
    goal = auto_goal(config.model.at)
    if goal is None:
        return config
    names = settle_cut(fresh_model(config, data, "original"), config.model.at, data, config.engine)
    console.print(f"Cut: {', '.join(names)} (best for {goal}, measured here)", highlight=False)
    return _cut_at(config, names[0] if len(names) == 1 else tuple(names))


def _cut_at(config: Config, at: str | tuple[str, ...]) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"at": at})})


def _cuts(config: Config) -> list[str]:
    at = config.model.at
    return [at] if isinstance(at, str) else list(at)
