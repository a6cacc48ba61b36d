"""A benchmark's result as JSON, and the same as a page of Markdown beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.errors import ConfigError


def write_result(result: Mapping[str, Any], out: Path) -> Path:
    """Write ``out`` (JSON) and the page of the same name ending in .md; return the page's path.

    Raises:
        ConfigError: The folder can't be written to.
    """
    page = out.with_suffix(".md")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page.write_text(to_markdown(result), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {str(out)!r}: {error}. Name another file with --out.") from None
    return page


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the page: what was measured, the table, the ratios, the machine."""
    parts = [f"# efface bench {result['bench']}", result["about"]]
    if "variants" in result:
        parts.append(_variants(result))
    if "rows" in result:
        parts.append(_rows(result["rows"]))
    if "ratios" in result:
        parts.append(_ratios(result))
    if result.get("notes"):
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    parts.append(_machine(result["machine"], result["settings"]))
    return "\n\n".join(parts) + "\n"


def _variants(result: Mapping[str, Any]) -> str:
    scale, unit = result.get("scale", 1.0), result["unit"]
    lines = [
        f"| variant | median, {unit} | lowest to highest | samples (disturbed) | what it is |",
        "|---|---|---|---|---|",
    ]
    for name, entry in result["variants"].items():
        spread = f"{entry['low'] * scale:.4g} to {entry['high'] * scale:.4g}"
        count = f"{len(entry['samples'])} ({entry['disturbed']})"
        lines.append(f"| {name} | {entry['median'] * scale:.4g} | {spread} | {count} | {entry['about']} |")
    return "\n".join(lines)


def _ratios(result: Mapping[str, Any]) -> str:
    lines = ["| ratio | of the medians | in single rounds |", "|---|---|---|"]
    for name, value in result["ratios"].items():
        spread = result.get("ratio_spread", {}).get(name)
        rounds = f"{spread['low']:.2f} to {spread['high']:.2f}" if spread else ""
        lines.append(f"| {name} | {value:.3f} | {rounds} |")
    return "\n".join(lines)


def _rows(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _machine(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    hardware, versions = machine["hardware"], machine["versions"]
    made = ", ".join(f"{name} {value}" for name, value in settings.items())
    environment = ", ".join(f"{name}={value}" for name, value in machine["environment"].items()) or "nothing set"
    return (
        f"{machine['started'][:10]}, {hardware['cpu']}, {machine['cores_used']} cores used, "
        f"{hardware['memory_gb']} GB, accelerator: {hardware['accelerator']}; Python {machine['python']}, "
        f"torch {versions['torch']}, efface {versions.get('efface', '?')}; allocator and threads: {environment}; "
        f"other work held {machine['load_before']} cores before. Settings: {made}. Command: `{machine['command']}`.\n\n"
        "A sample beside which other work held more than 0.15 of a core is disturbed: it is kept, and left out of the "
        "median unless all are."
    )
