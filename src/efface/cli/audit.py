"""``efface audit``: attack a finished run again, a model made elsewhere, or plain embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from efface.cli.app import app, console
from efface.errors import ConfigError, Problems, did_you_mean, expected

RUN, MODEL, ARRAYS = "a run", "--model", "--features"
BELONGS = {
    "--weights": (MODEL,),
    "--at": (MODEL,),
    "--data": (MODEL,),
    "--features-column": (ARRAYS,),
    "--labels": (ARRAYS,),
    "--target": (MODEL, ARRAYS),
    "--attributes": (MODEL, ARRAYS),
    "--original": (MODEL, ARRAYS),
    "--out": (MODEL, ARRAYS),
    "--overwrite": (MODEL, ARRAYS),
    "--name": (MODEL, ARRAYS),
    "--seed": (MODEL, ARRAYS),
    "--layers": (RUN, MODEL),
}
"""Which flags are for what; the others are for all."""
NEEDED = {MODEL: ("--at", "--data", "--target", "--attributes"), ARRAYS: ("--attributes",), RUN: ()}


@app.command()
def audit(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="A model made elsewhere: module:function, or a timm or torchvision name.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Its weights: .safetensors or .pt.")] = None,
    at: Annotated[str | None, typer.Option(help="Its layer that is released, or several, separated by commas.")] = None,
    data: Annotated[str | None, typer.Option(help="Images with labels: a folder, or a Hugging Face hub name.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Embeddings: .npy, parquet, a saved Hugging Face data set or a hub name.")
    ] = None,
    features_column: Annotated[
        str | None, typer.Option(help="Column of --features with the embeddings. Default: the only one with lists.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Parquet or CSV, a row per embedding; may have a column split.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of the main task.")] = None,
    attributes: Annotated[str | None, typer.Option(help="Columns to attack, separated by commas.")] = None,
    original: Annotated[
        str | None, typer.Option(help="Before unlearning: weights of the model, or embeddings. The ceiling.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Strength: quick, standard or full. Default: standard.")] = None,
    attackers: Annotated[
        str | None, typer.Option(help="Names in place of the suite's, by commas (efface ls attackers).")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layer map: all, or names separated by commas.")] = None,
    split: Annotated[str | None, typer.Option(help="People to attack: test or validation. Default: test.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs of an attacker.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How often each attacker is trained.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of splits, attackers and resamples.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as audit.view=logits. May be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the report calls it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.json and report.html. Default: audits/NAME.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the audit in --out.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bars, and no cost told beforehand.")
    ] = False,
) -> None:
    """Attack released features with fresh attackers; write audit.json and report.html.

    What is attacked is a finished run (its audit.json and report are renewed), a model made elsewhere at any of its
    layers (--model), or plain embeddings (--features).

    Examples:
      efface audit runs/mine --suite full --layers all

      efface audit --model mypkg.nets:build --weights w.safetensors --at layer3 --data DIR --target gender
      --attributes race,age_bin --out DIR

      efface audit --features emb.npy --labels labels.parquet --attributes race --target gender --out DIR
    """
    target = target or None
    given: dict[str, Any] = {
        "--weights": weights, "--at": at, "--data": data, "--features-column": features_column, "--labels": labels,
        "--target": target, "--attributes": attributes, "--original": original, "--out": out, "--name": name,
        "--overwrite": overwrite or None, "--seed": seed, "--layers": layers,
    }  # fmt: skip
    kind = _check({RUN: run, MODEL: model, ARRAYS: features}, given)
    settings = _settings(suite, attackers, layers, split, epochs, seeds)
    sets = list(set_ or ())
    if kind == RUN:
        assert run is not None
        result = _audit_run(run, settings, sets, quiet)
    else:
        source = model if kind == MODEL else features
        assert source is not None
        result = _audit_foreign(kind, source, given, settings, sets, quiet)
    console.print(result.audit.summary(), highlight=False, markup=False)
    console.print(f"Report: {result.report}", highlight=False, markup=False, soft_wrap=True)


def _check(sources: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return what is to be audited; tell all problems of flags at once."""
    problems = Problems(ConfigError)
    kinds = [kind for kind, value in sources.items() if value is not None]
    if len(kinds) != 1:
        got = " and ".join(kinds) or "none of these"
        problems.add(expected("efface audit", "given the folder of a run, --model or --features", got))
        problems.raise_if_any()
    kind = kinds[0]
    for flag, value in given.items():
        if value is not None and kind not in BELONGS[flag]:
            problems.add(f"{flag} does not go with {kind}, but with {' or '.join(BELONGS[flag])}.")
    for flag in NEEDED[kind]:
        if not given[flag]:
            problems.add(f"{kind} needs {flag}.")
    problems.raise_if_any()
    return kind


def _settings(
    suite: str | None,
    attackers: str | None,
    layers: str | None,
    split: str | None,
    epochs: int | None,
    seeds: int | None,
) -> dict[str, Any]:
    """Settings of the section ``audit`` that flags give."""
    from efface.audit.plan import EPOCHS
    from efface.config import AuditConfig

    settings: dict[str, Any] = {"split": split, "epochs": epochs, "seeds": seeds, "suite": suite}
    settings = {name: value for name, value in settings.items() if value is not None}
    if suite is not None:
        # A suite that is asked for wins over what a run was configured with.
        settings |= {"attackers": None, "beyond": None}
        settings.setdefault("epochs", EPOCHS.get(suite, AuditConfig().epochs))
    if attackers is not None:
        settings["attackers"] = _names(attackers)
    if layers is not None:
        settings["layers"] = "all" if layers.strip() == "all" else _names(layers)
    return settings


def _audit_run(run: Path, settings: dict[str, Any], sets: list[str], quiet: bool) -> Any:
    from efface.config import AuditConfig, override
    from efface.experiments import audit_again
    from efface.experiments.foreign import refuse_audit_folder

    refuse_audit_folder(run)
    more = override({}, sets)
    if wrong := sorted(set(more) - {"audit"}):
        raise ConfigError(expected("--set", "a setting of audit: a run's other settings are made", wrong[0]))
    changed = more.get("audit", {})
    if not isinstance(changed, dict):
        raise ConfigError(expected("audit", "a section: --set audit.NAME=VALUE", changed))
    problems = Problems(ConfigError)
    for setting in changed.keys() - AuditConfig.model_fields.keys():
        problems.add(f"Unknown setting `audit.{setting}`. {did_you_mean(setting, AuditConfig.model_fields)}")
    problems.raise_if_any()
    settings |= changed
    return audit_again(run, split=settings.pop("split", None), progress=not quiet, **settings)


def _check_array_settings(sets: list[str]) -> None:
    """Refuse settings that mean nothing for embeddings."""
    from efface.config import override

    problems, more = Problems(ConfigError), override({}, sets)
    for section in sorted(set(more) - {"audit", "name", "seed"}):
        problems.add(f"--set {section}…: --features is read as it is; no setting of {section!r} has any effect.")
    audit = more.get("audit")
    for name in ("layers", "releases", "view"):
        if isinstance(audit, dict) and name in audit:
            problems.add(f"--set audit.{name}: embeddings have one layer, released as it is. Leave it out.")
    problems.raise_if_any()


def _audit_foreign(
    kind: str, source: str, given: Mapping[str, Any], settings: dict[str, Any], sets: list[str], quiet: bool
) -> Any:
    from efface.experiments.foreign import Output, audit_arrays, audit_model, model_config

    output = Output(given["--out"], bool(given["--overwrite"]), not quiet)
    attributes, original = _names(given["--attributes"]), given["--original"]
    common: dict[str, Any] = {"audit": settings, "seed": given["--seed"]}
    if kind == ARRAYS:
        _check_array_settings(sets)
        config = model_config({**common, "name": given["--name"] or Path(source).stem or "embeddings"}, sets)
        arrays = {
            "features": source,
            "labels": given["--labels"],
            "column": given["--features-column"],
            "target": given["--target"],
            "attributes": attributes,
            "original": original,
        }
        return audit_arrays(arrays, config, output)
    layers = _names(given["--at"])
    settings = {
        **common,
        "name": given["--name"] or f"{source.replace(':', '.').split('/')[-1]}-{'-'.join(layers)}",
        "data": {"source": given["--data"], "target": given["--target"], "attributes": attributes},
        "model": {"name": source, "at": layers, "weights": given["--weights"]},
    }
    return audit_model(model_config(settings, sets), Path(original) if original else None, output)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
