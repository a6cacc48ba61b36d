"""Writes the run folder's README.md: a model card with YAML front matter, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from efface.report import view, words
from efface.report.folder import Run, read_run
from efface.report.formats import is_number
from efface.report.render import environment, save_page

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!$])")


def write_model_card(folder: Path) -> Path:
    """Write ``README.md`` into a run folder and return its path.

    Raises:
        CheckpointError: audit.json is missing, damaged, or of another schema version.
    """
    folder = Path(folder)
    run = read_run(folder)
    return save_page(card_text(run), folder / "README.md")


def card_text(run: Run) -> str:
    """Return the model card as markdown."""
    audit, setting = run.audit, view.setting_of(run.audit)
    pages = environment().overlay(autoescape=False)
    pages.filters["md"] = plain
    config = settings(run)
    return pages.get_template("card.md.j2").render(
        front=yaml.safe_dump(front_matter(audit), sort_keys=False, allow_unicode=True),
        audit=audit,
        setting=setting,
        summary=words.summary(audit["attributes"]),
        cards=view.cards(audit),
        sections=[
            {"name": name, "rows": view.attackers(attribute), "references": view.references(attribute)}
            for name, attribute in audit["attributes"].items()
        ],
        fidelity=words.fidelity_sentence(audit["fidelity"], setting),
        method=config.get("method") or {},
        model_rows=view.model_rows(audit),
        splits=view.splits(audit),
        warnings=view.warnings(run),
        caveat=words.CAVEAT,
        command=(run.environment or {}).get("command"),
        figures=sorted(path.name for path in run.folder.glob("figures/*.png")) if run.folder else [],
    )


def front_matter(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's metadata: library, tags, and results as the hub's model index.

    Source: Hugging Face model card metadata specification (``model-index``).
    """
    data = audit["data"]
    dataset = {"name": data["name"], "type": data["name"], "split": audit.get("split") or "test"}
    metrics = [{"type": "accuracy", "value": audit["fidelity"]["value"], "name": f"fidelity ({data['target']})"}]
    for name, attribute in audit["attributes"].items():
        metrics.append({"type": "accuracy", "value": attribute["best"]["accuracy"], "name": f"best attacker ({name})"})
        if is_number(attribute.get("excess_leakage")):
            metrics.append(
                {"type": "excess_leakage", "value": attribute["excess_leakage"], "name": f"excess leakage ({name})"}
            )
    result = {
        "task": {"type": "image-classification", "name": data["target"]},
        "dataset": dataset,
        "metrics": metrics,
    }
    front: dict[str, Any] = {
        "library_name": "efface",
        "pipeline_tag": "image-classification",
        "tags": ["efface", "attribute-unlearning", "image-classification"],
    }
    # The hub takes dataset ids only, no local folders.
    if re.fullmatch(r"[\w.-]+/[\w.-]+", data["name"]) and not data["name"].startswith("."):
        front["datasets"] = [data["name"]]
    front["model-index"] = [{"name": audit["name"], "results": [result]}]
    return front


def settings(run: Run) -> dict[str, Any]:
    """Return the configuration as mapping; empty if there is none or it is damaged."""
    try:
        values = yaml.safe_load(run.config or "")
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def plain(text: object) -> str:
    r"""Escape markdown and HTML, and keep the text on one line.

    Example:
        >>> plain("a_b | <b>")
        'a\\_b \\| &lt;b&gt;'
    """
    one_line = " ".join(str(text).split())
    escaped = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", escaped)
