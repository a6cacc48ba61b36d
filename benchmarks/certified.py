"""The page over the committed leaderboards of `quantised`: what was certified, kept and asked for, seed by seed.

for name in leaderboard.json leaderboard.md pareto.svg: cp COMPARISON/name benchmarks/results/certified/PRESET.SUFFIX
python benchmarks/certified.py                    writes benchmarks/results/certified/README.md
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from efface.report.words import upwards

PLACE = Path(__file__).parent / "results" / "certified"
ASKED: dict[str, dict[str, float]] = {
    "utkface-gender-race": {"points": 1.0, "excess": 0.02, "kept": 0.6, "certified": 2.5},
    "utkface-gender-race-layer2": {"points": 2.0, "excess": 0.1, "kept": 0.6},
    "celeba-smiling-male": {"points": 2.0, "excess": 0.1, "kept": 0.85, "certified": 5.0},
    "celeba-smiling-male-bare": {"points": 1.0, "certified": 2.5},
    "cifar10-living-class": {"points": 1.0, "accuracy": 0.24, "aum": 0.86, "certified": 2.5},
    "toyfaces-smiling-glasses": {"points": 1.0, "certified": 2.5},
    "toyfaces-smiling-glasses-skin": {"points": 1.0, "kept": 0.4, "certified": 5.0},
}
"""Per file: most points of fidelity lost, most excess leakage, least share of each kept column, most points that the
certificate lies above the label floor, most accuracy of the attacker, least AUM of the paper."""
HEAD = (
    "| seed | fidelity, original → now | label floor | told by kept columns | picked attacker, original → now "
    "| excess leakage; by the strongest on test | kept | AUM | certified, 95 % | above the floor | missed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def missed(row: dict[str, Any], asked: dict[str, float]) -> list[str]:
    """Return by how much a row misses what was asked for."""
    above = 100 * (row["certified"] - row["label_floor"])
    lost = 100 * (row["fidelity_original"] - row["fidelity"])
    found = [
        (lost - asked.get("points", math.inf), "fidelity by {:.2f} points"),
        (row["excess_leakage"] - asked.get("excess", math.inf), "excess by {:.3f}"),
        (above - asked.get("certified", math.inf), "certificate by {:.2f} points"),
        (row["best_accuracy"] - asked.get("accuracy", math.inf), "accuracy by {:.3f}"),
    ]
    found.append((asked.get("aum", -math.inf) - row["aum"], "AUM by {:.4f}"))
    for name in row["preserved"]:
        share = row["selectivity"][name]
        found.append((asked.get("kept", -math.inf) - (share or 0), name + " by {:.2f}"))
    return [text.format(by) for by, text in found if by > 0]


def line(row: dict[str, Any], asked: dict[str, float]) -> str:
    """Return a row of the table."""

    def interval(name: str) -> str:
        low, high = row[f"{name}_ci"]
        return f"[{low:.3f}, {high:.3f}]"

    kept = ", ".join(
        f"{name} {share:.2f}" if (share := row["selectivity"][name]) is not None else f"{name} –"
        for name in row["preserved"]
    )
    cells = [
        str(row["seed"]),
        f"{row['fidelity_original']:.3f} → {row['fidelity']:.3f} {interval('fidelity')}",
        f"{row['label_floor']:.3f}",
        f"{told:.3f}" if (told := row.get("kept_accuracy")) is not None else "–",
        f"{row['original_accuracy']:.3f} → {row['best_accuracy']:.3f} {interval('best')}",
        f"{row['excess_leakage']:.3f} {interval('excess_leakage')}; {row['highest_excess_leakage']:.3f}",
        kept or "nothing asked",
        f"{row['aum']:.3f}",
        f"{row['certified']:.4f}",
        f"{100 * (row['certified'] - row['label_floor']):.2f} points",
        "; ".join(missed(row, asked)) or "–",
    ]
    return "| " + " | ".join(cells) + " |\n"


def summary(paths: list[Path]) -> str:
    """Return the table that README.md shows: means, and the range over seeds."""
    text = (
        "| preset, cut, codes | fidelity before → after | label floor | picked attacker before → after "
        "| excess leakage | kept on request | no attacker exceeds (95 %) |\n|---|---|---|---|---|---|---|\n"
    )
    for path in paths:
        board = json.loads(path.read_text())
        rows = [row for row in board["rows"] if row["method"] == "quantised"]

        def average(name: str, rows: list[dict[str, Any]] = rows) -> str:
            return f"{mean(row[name] for row in rows):.3f}"

        kept = "; ".join(
            f"{name} {span([row['selectivity'][name] for row in rows], 2)}" for name in rows[0]["preserved"]
        )
        cells = [
            f"{board['name']}, {board['config']['model']['at']}, "
            f"{math.prod(board['config']['method']['code']['levels'])} codes",
            f"{average('fidelity_original')} → {average('fidelity')}",
            average("label_floor"),
            f"{average('original_accuracy')} → {average('best_accuracy')}",
            span([row["excess_leakage"] for row in rows], 3),
            kept or "–",
            f"{upwards(max(row['certified'] for row in rows)):.3f}",
        ]
        text += "| " + " | ".join(cells) + " |\n"
    return text


def span(values: list[float], digits: int) -> str:
    """Return least and greatest."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def section(path: Path) -> str:
    """Return what a leaderboard says."""
    board = json.loads(path.read_text())
    config, environment = board["config"], board["environment"]
    method, asked = config["method"], ASKED[path.stem]
    levels = "×".join(map(str, method["code"]["levels"]))
    wanted = [
        f"fidelity within {asked['points']:g} point(s) of the original",
        *([f"excess leakage at most {asked['excess']:g}"] if "excess" in asked else []),
        *([f"attacker at most {asked['accuracy']:g}"] if "accuracy" in asked else []),
        *([f"AUM at least {asked['aum']:g}"] if "aum" in asked else []),
        *([f"each kept column's probe at least {asked['kept']:g} of the original's gain"] if "kept" in asked else []),
        *([f"certified within {asked['certified']:g} points"] if "certified" in asked else []),
    ]
    rows = [row for row in board["rows"] if row["method"] == "quantised"]
    return (
        f"## {path.stem}\n\n{board['target']} kept, {', '.join(board['attributes'])} unlearned, cut after "
        f"{config['model']['at']}; {math.prod(method['code']['levels'])} codes ({levels}); "
        f"`preserve`: {', '.join(method['preserve']) or 'nothing'}. n = {rows[0]['n']} of {board['split']}, suite "
        f"`{board['suite']}`. [Table]({path.stem}.md), [JSON]({path.name}).\n\n**Asked**: {'; '.join(wanted)}.\n\n"
        + HEAD
        + "".join(line(row, asked) for row in rows)
        + "\nBits given the target, from below, by the picked attacker: "
        + ", ".join(f"{row['conditional_bits']:.3f}" for row in rows)
        + f". {environment['started'][:10]}, {environment['hardware']['cpu']}, torch {environment['torch']}: "
        f"`{environment['command']}`\n"
    )


def main() -> None:
    paths = [PLACE / f"{name}.json" for name in ASKED]
    sections = [section(path) for path in paths]
    notes = (PLACE / "notes.md").read_text()
    head = "# Certified release: `quantised`\n"
    parts = [head, notes, "Means of the seeds, and ranges:\n", summary(paths), *sections]
    (PLACE / "README.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
