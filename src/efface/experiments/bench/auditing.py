"""``bench audit``: the audit's time as a share of the training's, in whole runs of presets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from efface.engine.threads import busy_seconds, own_seconds
from efface.experiments.bench.sampling import QUIET
from efface.experiments.presets import find_config
from efface.experiments.runner import run

ABOUT = (
    "Whole runs: both trainings, and the preset's own audit of both models. "
    "The share is the audit's seconds over the trainings'."
)


def bench_audit(presets: Sequence[str], overrides: Iterable[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return each preset's seconds by phase, without the machine.

    Args:
        presets: Names of presets, or YAML files.
        overrides: ``section.name=value`` settings for all of them.
        tell: Hears of the progress.
    """
    changes = list(overrides)
    rows = []
    for name in presets:
        tell(name)
        rows.append(_row(name, changes))
    return {
        "bench": "audit",
        "about": ABOUT,
        "settings": {"presets": "+".join(presets), "set": " ".join(changes) or "nothing"},
        "rows": rows,
        "ratios": {f"audit_share_{row['preset']}": row["audit share"] for row in rows},
    }


def _row(name: str, overrides: list[str]) -> dict[str, Any]:
    config = find_config(name, overrides)
    busy, own = busy_seconds(nice=True), own_seconds()
    with tempfile.TemporaryDirectory(prefix="efface-bench-") as folder:
        phases = run(config, Path(folder) / "run", progress=False).audit.phases
    seconds = phases["read_s"] + phases["train_s"] + phases["audit_s"]
    others = max(0.0, busy_seconds(nice=True) - busy - (own_seconds() - own)) / seconds
    return {
        "preset": config.name,
        "read, s": phases["read_s"],
        "train, s": phases["train_s"],
        "audit, s": phases["audit_s"],
        "audit share": phases["audit_s"] / phases["train_s"],
        "peak resident, MiB": phases["peak_rss_mb"],
        "others held, cores": round(others, 2),
        "disturbed": others > QUIET,
    }
