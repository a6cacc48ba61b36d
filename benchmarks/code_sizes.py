r"""What a larger code keeps, and what can still be certified: a comparison of codes as a table and a plot.

efface compare PRESET --variants benchmarks/ablations/codes.yaml --suite standard --seeds 1 --out runs/codes/PRESET
python benchmarks/code_sizes.py runs/codes/PRESET --out benchmarks/results/codes/PRESET
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import yaml

from efface.report.words import upwards
from summarise import arguments

matplotlib.use("svg")
from matplotlib import pyplot as plt

HEAD = (
    "| levels | codes | fidelity | certified, 95 % | empirical | label floor | strongest attacker "
    "| excess leakage | {others} |\n|---|---|---|---|---|---|---|---|{rule}\n"
)


def point(cell: Path) -> dict[str, Any]:
    """Return what the run in a folder reached; figures of the attribute that is certified least."""
    audit = json.loads((cell / "audit.json").read_text())
    config = yaml.safe_load((cell / "config.yaml").read_text())
    name, entry = max(audit["attributes"].items(), key=lambda item: item[1]["certificate"]["tighter"])
    levels = config["method"]["code"]["levels"]
    names = ("preserve", "preserve_weight", "target_weight", "removal_weight")
    return {
        "date": audit["created"][:10],
        "seed": audit["seed"],
        "method": {name: config["method"][name] for name in names},
        "levels": levels,
        "codes": math.prod(levels),
        "fidelity": audit["fidelity"]["value"],
        "fidelity_ci": audit["fidelity"]["ci"],
        "fidelity_original": audit["fidelity"]["original"],
        "attribute": name,
        "n": entry["n"],
        "certificate": entry["certificate"],
        "floors": entry["floors"],
        "highest": entry["highest"]["accuracy"],
        "original_best": entry["original_best"],
        "excess_leakage": entry["excess_leakage"],
        "selectivity": {
            one["column"]: {"share": (one["share"] or {}).get("value"), "preserved": one["preserved"]}
            for one in (audit.get("selectivity") or {"columns": []})["columns"]
        },
    }


def row(one: dict[str, Any], others: list[str]) -> str:
    """Return a row of the table."""
    certificate = one["certificate"]
    cells = [
        "×".join(map(str, one["levels"])),
        str(one["codes"]),
        f"{one['fidelity']:.3f} [{one['fidelity_ci'][0]:.3f}, {one['fidelity_ci'][1]:.3f}]",
        f"{upwards(certificate['tighter']):.3f}",
        f"{certificate['empirical']:.3f}",
        f"{one['floors']['label']:.3f}",
        f"{one['highest']:.3f}",
        f"{one['excess_leakage']:.3f}",
        *(f"{share:.2f}" if (share := one["selectivity"][name]["share"]) is not None else "–" for name in others),
    ]
    return "| " + " | ".join(cells) + " |\n"


def draw(points: list[dict[str, Any]], others: list[str], path: Path) -> None:
    """Draw fidelity, what is certified and what is found, and the shares kept, over the code's bits."""
    plt.rcParams["svg.hashsalt"] = "efface"
    bits = [math.log2(one["codes"]) for one in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    first = points[0]
    left.plot(bits, [one["fidelity"] for one in points], "o-", label="fidelity")
    left.axhline(first["fidelity_original"], ls=":", label="fidelity of the original")
    for name in others:
        left.plot(
            bits, [one["selectivity"][name]["share"] or 0 for one in points], "s--", label=f"share of {name} kept"
        )
    right.plot(
        bits, [one["certificate"]["tighter"] for one in points], "o-", label="certified for every attacker, 95 %"
    )
    right.plot(bits, [one["highest"] for one in points], "s--", label="strongest attacker of the suite")
    right.axhline(first["floors"]["label"], ls=":", label="label floor")
    for axes, title in ((left, "kept"), (right, f"accuracy on {first['attribute']}")):
        axes.set(xlabel="bits of the code, log₂ M", ylabel=title)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    given = arguments(__doc__, "benchmarks/results/codes")
    board = json.loads((given.folders[0] / "leaderboard.json").read_text())
    cells = [given.folders[0] / f"seed-{row['seed']}" / row["method"] for row in board["rows"] if row["certified"]]
    points = sorted(map(point, cells), key=lambda one: one["codes"])
    others = sorted({name for one in points for name in one["selectivity"]})
    given.out.mkdir(parents=True, exist_ok=True)
    about = {"preset": board["name"], "environment": board["environment"]}
    (given.out / "codes.json").write_text(json.dumps({**about, "points": points}, indent=1) + "\n")
    draw(points, others, given.out / "codes.svg")
    head = HEAD.format(others=" | ".join(f"{name} kept" for name in others), rule="---|" * max(1, len(others)))
    text = (
        f"# {about['preset']}: codes of several sizes\n\n![Kept, and certified, over the code's bits](codes.svg)\n\n"
        + head
        + "".join(row(one, others) for one in points)
        + f"\nFractions; n = {points[0]['n']}, seed {points[0]['seed']}; original fidelity "
        f"{points[0]['fidelity_original']:.3f}, strongest attacker on it {points[0]['original_best']:.3f}. "
        f"`method`: {json.dumps(points[0]['method'])}. {points[0]['date']}, {board['environment']['hardware']['cpu']}, "
        f"torch {board['environment']['torch']}: `{board['environment']['command']}`\n"
    )
    (given.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
