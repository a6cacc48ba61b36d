"""Audits of what was made elsewhere: any model at any of its layers, and plain embeddings; written into a folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from torch import nn

from efface.audit import AuditResult, audit
from efface.audit.conclude import prepare
from efface.audit.embeddings import audit_loaded, load_embeddings
from efface.audit.features import check_layers
from efface.audit.plan import Plan
from efface.audit.threat import UNKNOWN
from efface.config import Config, override
from efface.data.dataset import AttributeDataset
from efface.data.load import load
from efface.engine.devices import device_for
from efface.engine.seeds import seed_everything
from efface.errors import ConfigError, Problems, expected
from efface.experiments.environment import describe, peak_rss_mb
from efface.experiments.folder import RunFolder
from efface.experiments.runner import RunResult
from efface.models import build
from efface.report import render_report

OWN = ("audit.json", "report.html")
MADE = "The weights are those that the model's constructor makes: none were given."


@dataclass(frozen=True)
class Output:
    """Where an audit is written.

    Attributes:
        folder: Where; None: ``audits/NAME``, numbered if taken.
        overwrite: Whether an audit that is there may be replaced.
        progress: Whether progress is shown.
        console: Where remarks go.
    """

    folder: Path | None = None
    overwrite: bool = False
    progress: bool = True
    console: Console | None = None

    def open(self, name: str) -> RunFolder:
        """Return the folder, made if it is not there.

        Raises:
            ConfigError: It holds a run, or an audit that may not be replaced.
        """
        self.check()
        folder = RunFolder(self.folder) if self.folder else RunFolder.default(name, False, Path("audits"))
        folder.make()
        return folder

    def check(self) -> None:
        """Refuse a folder whose content would be lost; write nothing.

        Raises:
            ConfigError: It holds a run, or an audit that may not be replaced.
        """
        path = self.folder
        if path is None:
            return
        if path.exists() and not path.is_dir():
            raise ConfigError(expected("--out", "a folder", str(path)))
        if (path / "model.safetensors").exists():
            raise ConfigError(f"{str(path)!r} holds a run. Name another folder with --out.")
        there = {one.name for one in path.iterdir()} if path.is_dir() else set()
        if "audit.json" not in there and there - {"features"}:  # which a killed audit leaves
            raise ConfigError(f"{str(path)!r} is not empty and holds no audit. Name another folder with --out.")
        if (path / "audit.json").exists() and not self.overwrite:
            raise ConfigError(
                f"{str(path)!r} already holds an audit. Replace it with --overwrite, or name another folder."
            )


def model_config(settings: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Return the configuration of an audit of a user's model.

    Its stem is as the library builds it: only models of this project have the small one.

    Args:
        settings: Nested settings that were given.
        overrides: ``section.name=value``.

    Raises:
        ConfigError: All problems at once.
    """
    values = {"audit": {"suite": "standard"}, **{name: part for name, part in settings.items() if part is not None}}
    values["audit"] = {"suite": "standard", **values["audit"]}
    values["model"] = {"stem": "standard", **values.get("model", {})}
    return Config.from_mapping(override(values, overrides))


def audit_model(config: Config, original: Path | None = None, output: Output | None = None) -> RunResult:
    """Audit a model that was trained elsewhere; write audit.json and report.html.

    Args:
        config: Sections ``data``, ``model`` and ``audit``.
        original: Weights of the same model before unlearning: the ceiling.
        output: Where to.

    Raises:
        EffaceError: Whatever is wrong with data, model, weights, layers, attackers or folder; all at once.
    """
    output, begun = output or Output(), time.perf_counter()
    data, models = open_model(config, original, output)
    read_s = round(time.perf_counter() - begun, 3)
    folder = output.open(config.name)
    at = [config.model.at] if isinstance(config.model.at, str) else list(config.model.at)
    device = device_for(config.engine)
    found = audit(
        models["model"].to(device),
        data,
        at,
        original=models["original"].to(device) if "original" in models else None,
        config=config.audit,
        trained_on=UNKNOWN,
        seed=config.seed,
        cache=folder.path / "features",
        progress=output.progress,
        name=config.name,
    )
    found = replace(found, model={**found.model, "name": config.model.name})
    if config.model.weights is None and ":" not in config.model.name:
        found = replace(found, warnings=(*found.warnings, MADE))
    kept = config.model_dump(mode="json", include={"name", "seed", "data", "model", "audit"})
    return _write(found, folder, {"read_s": read_s}, kept, config.seed)


def open_model(config: Config, original: Path | None, output: Output) -> tuple[AttributeDataset, dict[str, nn.Module]]:
    """Read the data and build the models; try whatever can fail before hours are spent.

    Raises:
        EffaceError: All problems at once.
    """
    problems = Problems(ConfigError)
    problems.attempt(output.check)
    problems.attempt(lambda: Plan.of(config.audit))
    data = problems.attempt(lambda: load(config.data, config.seed, output.progress))
    files = {"model": config.model.weights, **({"original": original} if original is not None else {})}
    models = {}
    for role, weights in files.items():
        # Where data or weights lack, name and layers are still tried.
        there = data is not None and weights is not None and weights.is_file()
        if weights is not None and not weights.is_file():
            flag = "--weights" if role == "model" else "--original"
            problems.attempt(partial(_no_file, flag, weights))
        model = problems.attempt(partial(_build, config, data, weights if there else None))
        if model is None:
            break
        models[role] = model
    if "model" in models:
        at = [config.model.at] if isinstance(config.model.at, str) else list(config.model.at)
        wanted = config.audit.layers if isinstance(config.audit.layers, tuple) else ()
        problems.attempt(lambda: check_layers(models["model"], [*at, *wanted]))
    problems.raise_if_any()
    assert data is not None
    return data, models


def _no_file(flag: str, path: Path) -> None:
    raise ConfigError(expected(flag, "a .safetensors or .pt file", str(path), "There is no such file."))


def _build(config: Config, data: AttributeDataset | None, weights: Path | None) -> nn.Module:
    seed_everything(config.seed, "original", "initialisation")
    return build(
        config.model.name,
        data.target.n_classes if data is not None else 2,
        data.image_shape[1] if data is not None else config.data.size or 64,
        stem=config.model.stem,
        weights=weights,
        **config.model.options,
    ).eval()


def audit_arrays(arrays: Mapping[str, Any], config: Config, output: Output | None = None) -> RunResult:
    """Audit embeddings; write audit.json and report.html.

    Args:
        arrays: Arguments ``features``, ``labels``, ``column``, ``target``, ``attributes``, ``original``
            as in ``audit_embeddings``.
        config: Sections ``audit``; name and seed.
        output: Where to.

    Raises:
        EffaceError: Whatever is wrong with embeddings, labels, attackers or folder.
    """
    output = output or Output()
    problems = Problems(ConfigError)
    problems.attempt(output.check)
    job = problems.attempt(lambda: prepare(config.audit, None, config.seed, config.name))
    names = [arrays["attributes"]] if isinstance(arrays["attributes"], str) else arrays["attributes"]
    given = {"labels": None, **arrays, "attributes": names, "seed": config.seed}
    begun = time.perf_counter()
    embeddings = problems.attempt(lambda: load_embeddings(**given))
    read_s = round(time.perf_counter() - begun, 3)
    problems.raise_if_any()
    assert job is not None
    assert embeddings is not None
    folder = output.open(config.name)
    found = audit_loaded(job, embeddings, names, arrays.get("target"), output.progress)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in arrays.items()}
    kept = {"name": config.name, "seed": config.seed, **plain, "audit": config.audit.model_dump(mode="json")}
    return _write(found, folder, {"read_s": read_s}, kept, config.seed)


def refuse_audit_folder(path: Path) -> None:
    """Say what to do about a folder that holds an audit, but no run to audit again.

    Raises:
        ConfigError: It is one.
    """
    if (path / "audit.json").exists() and not (path / "model.safetensors").exists():
        raise ConfigError(
            f"{str(path)!r} holds an audit of something made elsewhere, no run. Make it again with the same --model or "
            "--features and --overwrite; `efface report` renders its page again."
        )


def _write(
    found: AuditResult, folder: RunFolder, seconds: Mapping[str, float], settings: Mapping[str, Any], seed: int
) -> RunResult:
    """Write the folder: audit.json, the report, what it was made with."""
    for name in OWN:
        (folder.path / name).unlink(missing_ok=True)
    folder.write_json("environment.json", describe(seed))
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    (folder.path / "config.yaml").write_text(text, encoding="utf-8")
    (folder.path / "reconstructions.npz").unlink(missing_ok=True)
    folder.save_pictures(found.reconstructions)
    found = replace(found, phases={**found.phases, **seconds, "peak_rss_mb": peak_rss_mb()})
    folder.write_json("audit.json", found.to_json())
    begun = time.perf_counter()
    report = render_report(folder.path)
    found = replace(found, phases={**found.phases, "report_s": round(time.perf_counter() - begun, 3)})
    folder.write_json("audit.json", found.to_json())
    return RunResult(folder.path, found, report)
