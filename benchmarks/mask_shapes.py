"""Does the mask tell what it hides? Trees guess the attribute from the shapes of baseline 2's masks, pixels unseen.

python benchmarks/mask_shapes.py runs/small/runs/*-masked_retrain-* --out benchmarks/results/masks

Each mask is averaged over 8 × 8 cells. Trees learn on the training people's masks and are read once on the test
people's, whose masks the same classifier made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier

from efface.audit.floors import floors
from efface.audit.intervals import mean_interval
from efface.data.load import load
from efface.experiments.environment import describe
from efface.experiments.folder import RunFolder
from efface.methods.masked_retrain import load_areas

CELLS = 8


def read(path: Path) -> dict[str, Any]:
    """Return what trees make of one run's masks."""
    config = RunFolder(path).config()
    data, areas = load(config.data, config.seed, progress=False), load_areas(path)
    if areas is None or len(areas) != len(data):
        raise SystemExit(f"{path}: no masks, or of other images")
    side = areas.shape[1] // CELLS
    shapes = areas.reshape(len(areas), CELLS, side, CELLS, side).mean((2, 4)).reshape(len(areas), -1)
    column, found = data.attributes[0], {}
    for role in ("train", "test"):
        rows = data.rows(role)
        rows = rows[data.labels[column.name][rows] >= 0]
        found[role] = shapes[rows], data.labels[column.name][rows], data.labels[data.target.name][rows]
    trees = HistGradientBoostingClassifier(random_state=config.seed).fit(*found["train"][:2])
    inputs, labels, target = found["test"]
    hits = (trees.predict(inputs) == labels).astype(float)
    low, high = mean_interval(hits)
    return {
        "run": path.name,
        "data": Path(config.data.source).name,
        "model": config.model.name,
        "attribute": column.name,
        "masked": float(areas[data.rows("test")].mean()),
        "accuracy": float(hits.mean()),
        "ci": [low, high],
        "label_floor": floors(target, labels, column.n_classes).label,
        "n": len(labels),
        "n_train": len(found["train"][1]),
    }


def _line(row: dict[str, Any]) -> str:
    low, high = row["ci"]
    figures = f"{row['masked']:.3f} | {row['accuracy']:.3f} | {low:.3f} to {high:.3f} | {row['label_floor']:.3f}"
    return f"| {row['data']} | {row['model']} | {row['attribute']} | {figures} | {row['n_train']:,} / {row['n']:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/masks"))
    given = parser.parse_args()
    rows, made = [read(path) for path in given.folders], describe(0)
    made["command"] = f"python benchmarks/mask_shapes.py runs/small/runs/*-masked_retrain-* --out {given.out}"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "masks.json").write_text(json.dumps({"rows": rows, **made}, indent=1) + "\n")
    lines = [
        "# What the mask's shape tells",
        "",
        "Trees on baseline 2's masks alone, averaged over 8 × 8 cells; no pixel is seen. Read on test.",
        "",
        "| data | network | attribute | area masked | accuracy | interval | label floor | people: train / test |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        "",
        f"{made['started'][:10]}, seed 0, scikit-learn {made['versions']['scikit-learn']}: `{made['command']}`",  # type: ignore[index]
    ]
    (given.out / "README.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
