r"""How long it takes to reach an excess leakage, from trained weights and from scratch: a table and a plot.

for init in original scratch; do for epochs in 1 2 4 8 16; do
  efface compare PRESET --methods narrow --seeds 1 --set method.init=$init --set engine.epochs=$epochs \
    --out "runs/time/$init-$epochs"
done; done
python benchmarks/time_to_excess.py runs/time/* --out benchmarks/results/time/PRESET

The cosine schedule ends with the training, so each number of epochs is a training of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import yaml

from summarise import arguments

matplotlib.use("svg")
from matplotlib import pyplot as plt

NAMES = {"original": "from trained weights", "scratch": "from scratch"}
TARGETS = (0.05, 0.1, 0.2, 0.3)
LOST = 0.02
"""Most fidelity that a training may lose to count as one that has reached an excess."""


def points(folder: Path) -> list[dict[str, Any]]:
    """Return what the trainings of a comparison reached, one per method and seed."""
    board = json.loads((folder / "leaderboard.json").read_text())
    found = []
    for row in board["rows"]:
        config = yaml.safe_load((folder / f"seed-{row['seed']}" / row["method"] / "config.yaml").read_text())
        kept = (
            "method",
            "seed",
            "n",
            "train_s",
            "fidelity",
            "fidelity_original",
            "excess_leakage",
            "excess_leakage_ci",
        )
        made = {"init": config["method"]["init"], "epochs": config["engine"]["epochs"], "name": board["name"]}
        about = {"suite": board["suite"], "split": board["split"], "environment": board["environment"]}
        found.append({**made, **{name: row[name] for name in kept}, **about})
    return found


def reached(found: list[dict[str, Any]], init: str, excess: float) -> dict[str, Any] | None:
    """Return the shortest training that got so low and kept the task; None where none did."""
    good = [
        one
        for one in found
        if one["init"] == init
        and one["excess_leakage"] <= excess
        and one["fidelity"] >= one["fidelity_original"] - LOST
    ]
    return min(good, key=lambda one: one["train_s"], default=None)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw excess leakage and lost fidelity over the seconds of training."""
    plt.rcParams["svg.hashsalt"] = "efface"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for init, label in NAMES.items():
        mine = [one for one in found if one["init"] == init]
        seconds = [one["train_s"] for one in mine]
        left.plot(seconds, [one["excess_leakage"] for one in mine], "o-", label=label)
        lost = [100 * (one["fidelity_original"] - one["fidelity"]) for one in mine]
        right.plot(seconds, lost, "o-", label=label)
    left.set(ylabel="excess leakage")
    right.set(ylabel="fidelity lost, points")
    for axes in (left, right):
        axes.set(xlabel="training, seconds", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def page(found: list[dict[str, Any]]) -> str:
    """Return the tables."""
    text = f"# {found[0]['name']}, `{found[0]['method']}`: time to an excess leakage\n\n"
    text += "![Excess leakage and fidelity over the time of training](time.svg)\n\n"
    text += "| weights | epochs | training, s | fidelity, original → now | excess leakage |\n|---|---|---|---|---|\n"
    for one in found:
        low, high = one["excess_leakage_ci"]
        text += (
            f"| {NAMES[one['init']]} | {one['epochs']} | {one['train_s']:.0f} | {one['fidelity_original']:.3f} → "
            f"{one['fidelity']:.3f} | {one['excess_leakage']:.3f} [{low:.3f}, {high:.3f}] |\n"
        )
    text += f"\nShortest training that reaches an excess and loses at most {100 * LOST:.0f} points of fidelity:\n\n"
    text += f"| excess at most | {' | '.join(NAMES.values())} | ratio |\n|---|---|---|---|\n"
    for target in TARGETS:
        best = [reached(found, init, target) for init in NAMES]
        cells = [f"{one['train_s']:.0f} s ({one['epochs']} epochs)" if one else "not reached" for one in best]
        ratio = f"{best[1]['train_s'] / best[0]['train_s']:.1f}" if best[0] and best[1] else "–"
        text += f"| {target} | {' | '.join(cells)} | {ratio} |\n"
    first = found[0]
    return text + (
        f"\nFractions, 95 % intervals over people; suite `{first['suite']}`, read on {first['split']}, "
        f"n = {first['n']}, seed {first['seed']}. The time that made the trained weights is not counted.\n"
        f"{first['environment']['started'][:10]}, {first['environment']['hardware']['cpu']}, torch "
        f"{first['environment']['torch']}: `{first['environment']['command']}`, and so on.\n"
    )


def main() -> None:
    given = arguments(__doc__, "benchmarks/results/time")
    found = sorted(
        (one for folder in given.folders for one in points(folder)),
        key=lambda one: (one["init"], one["method"], one["seed"], one["epochs"]),
    )
    if len({(one["name"], one["method"], one["seed"]) for one in found}) != 1:
        raise SystemExit("Name comparisons of one preset, one method and one seed.")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "time.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, given.out / "time.svg")
    (given.out / "README.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
