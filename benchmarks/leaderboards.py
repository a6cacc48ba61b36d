"""Commit a comparison: its leaderboard without this machine's paths, its table and its plot.

efface compare toyfaces-smiling-glasses --suite standard --seeds 3
python benchmarks/leaderboards.py comparisons/toyfaces-smiling-glasses --out benchmarks/results/leaderboard
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from summarise import arguments


def main() -> None:
    given = arguments(__doc__, "benchmarks/results/leaderboard")
    given.out.mkdir(parents=True, exist_ok=True)
    for folder in given.folders:
        board = json.loads((folder / "leaderboard.json").read_text())
        source, name = board["config"]["data"]["source"], board["name"]
        board["config"]["data"]["source"] = Path(source).name
        board["environment"]["command"] = _plain(board["environment"]["command"], source)
        (given.out / f"{name}.json").write_text(json.dumps(board, indent=1, ensure_ascii=False) + "\n")
        shutil.copy(folder / "pareto.svg", given.out / f"{name}.svg")
        table = _plain((folder / "leaderboard.md").read_text(), source)
        (given.out / f"{name}.md").write_text(
            f"{table.rstrip()}\n\n![Fidelity against excess leakage: every method and seed]({name}.svg)\n"
        )
        print(table)


def _plain(text: str, source: str) -> str:
    """Return text in which the data's folder is called DIR."""
    return text.replace(source, "DIR") if "/" in source else text


if __name__ == "__main__":
    main()
