r"""What methods leave of an attribute that is a number: as a class, and as the number. A comparison as a table.

efface compare PRESET --set 'data.derive={age_group: {of: age, bins: 5}}' --set 'data.attributes=[age_group]' \
    --set 'method.preserve=[]' --set 'audit.beyond=[numbers,selectivity]' --suite standard --seeds 1 --out runs/numbers
python benchmarks/numbers_told.py runs/numbers --out benchmarks/results/numbers/PRESET-age
"""

from __future__ import annotations

import json
from typing import Any

from summarise import arguments

HEAD = (
    "| method | fidelity | strongest attacker on the class | excess, class | share of the number's variance explained "
    "| excess, number | ridge | perceptron | trees |\n|---|---|---|---|---|---|---|---|---|\n"
)


def row(name: str, audit: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one cell's audit."""
    attribute, told = next(iter(audit["numbers"].items()))
    entry = audit["attributes"][attribute]
    return {
        "method": name,
        "seed": audit["seed"],
        "attribute": attribute,
        "fidelity": audit["fidelity"],
        "label_floor": entry["floors"]["label"],
        "highest": entry["highest"]["accuracy"],
        "excess_leakage": entry["excess_leakage"],
        "excess_leakage_ci": entry["excess_leakage_ci"],
        "verdict": entry["verdict"],
        "number": told,
    }


def line(one: dict[str, Any]) -> str:
    """Return a row of the table."""

    def figure(found: dict[str, Any] | None) -> str:
        return "–" if found is None else f"{found['value']:.3f} [{found['ci'][0]:.3f}, {found['ci'][1]:.3f}]"

    number, (low, high) = one["number"], one["excess_leakage_ci"]
    shares = " | ".join(f"{number['regressors'][name]:.3f}" for name in ("ridge", "mlp", "trees"))
    return (
        f"| {one['method']} | {figure(one['fidelity'])} | {one['highest']:.3f} | {one['excess_leakage']:.3f} "
        f"[{low:.3f}, {high:.3f}] | {figure(number['value'])} | {figure(number['excess'])} | {shares} |"
    )


def main() -> None:
    """Read a comparison's folder; write numbers.json and README.md."""
    given = arguments(__doc__, "benchmarks/results/numbers")
    (folder,), out = given.folders, given.out
    board = json.loads((folder / "leaderboard.json").read_text())
    cells = sorted(folder.glob("seed-*/*/audit.json"))
    rows = [row(cell.parent.name, json.loads(cell.read_text())) for cell in cells]
    rows.sort(key=lambda one: one["number"]["value"]["value"])
    about = board["environment"]
    out.mkdir(parents=True, exist_ok=True)
    kept = {"environment": about, "rows": rows}
    (out / "numbers.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    first = rows[0]
    number = first["number"]
    text = (
        f"# {first['attribute']}: what is left of the class, and of the number\n\n{HEAD}"
        + "\n".join(map(line, rows))
        + f"\n\nn = {number['n']}, seed {first['seed']}; label floor of the class {first['label_floor']:.3f}; the "
        f"target alone explains {number['target']['value']:.3f} of the number's variance. The last three columns are "
        f"shares explained on the same people, before validation picks. {about['started'][:10]}, "
        f"{about['hardware']['cpu']}, torch {about['torch']}: `{about['command']}`\n"
    )
    (out / "README.md").write_text(text)


if __name__ == "__main__":
    main()
