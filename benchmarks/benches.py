"""Set the goals beside what `efface bench` measured: README.md over a folder of results.

python benchmarks/benches.py benchmarks/results/bench
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efface.experiments.bench.goals import overview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    results = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    page = overview({name: result for name, result in results.items() if "bench" in result})
    (folder / "README.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
