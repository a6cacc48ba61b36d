"""Turn finished run folders into committed results: one JSON per run, one table in Markdown.

python benchmarks/summarise.py runs/utkface-gender-race runs/celeba-smiling-male --out benchmarks/results/main
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

HEAD = (
    "| run | fidelity original | fidelity unlearned | attribute | label floor | strongest on the original | "
    "strongest after | excess leakage | by the strongest | verdict | read + train + audit + report | peak memory |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def load(folder: Path) -> dict[str, Any]:
    """Return what is committed of a finished run; command and source are written without this machine's paths."""
    audit = json.loads((folder / "audit.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    command = ["efface run", config["name"]]
    if config["data"]["source"] != "toyfaces":
        config["data"]["source"] = Path(config["data"]["source"]).name
        command.append("--data DIR")
    command.append(f"--set method.name={config['method']['name']}")
    if threads := config["engine"]["threads"]:
        command.append(f"--set engine.threads={threads}")
    environment["command"] = " ".join(command)
    return {"date": audit["created"], "environment": environment, "config": config, "audit": audit}


def arguments(about: str | None, out: str) -> argparse.Namespace:
    """Return folders of finished runs and where their results go, from the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def write(results: list[dict[str, Any]], text: str, out: Path) -> None:
    """Write a JSON per run, and the page, which ends with how each run was made."""
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        path = out / f"{result['audit']['name']}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    made = [
        f"- {r['audit']['name']}: {r['date'][:10]}, seed {r['audit']['seed']}, n = {r['audit']['fidelity']['n']} "
        f"(train {r['audit']['data']['n']['train']}), {r['environment']['hardware']['cpu']}, "
        f"{r['config']['engine']['threads'] or r['environment']['hardware']['cores']} thread(s), "
        f"torch {r['environment']['torch']}: `{r['environment']['command']}`"
        for r in results
    ]
    page = text + "\n" + "\n".join(made) + "\n"
    (out / "README.md").write_text(page)
    print(page)


def interval(value: float, ci: list[float] | None) -> str:
    """Return a fraction with its interval."""
    return f"{value:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def rows(result: dict[str, Any]) -> str:
    """Return a table row per attribute."""
    audit, lines = result["audit"], []
    fidelity, phases = audit["fidelity"], audit["phases"]
    seconds = " + ".join(f"{phases[name]:.0f}" for name in ("read_s", "train_s", "audit_s", "report_s")) + " s"
    for name, entry in audit["attributes"].items():
        excess = entry["excess_leakage"]
        cells = [
            audit["name"],
            interval(fidelity["original"], fidelity["original_ci"]),
            interval(fidelity["value"], fidelity["ci"]),
            name,
            f"{entry['floors']['label']:.3f}",
            f"{entry['original_best']:.3f}",
            f"{interval(entry['highest']['accuracy'], entry['highest']['ci'])} ({entry['highest']['attacker']})",
            "–" if excess is None else interval(excess, entry["excess_leakage_ci"]),
            "–" if excess is None else f"{entry['highest']['excess_leakage']:.3f}",
            entry["verdict"],
            seconds,
            f"{phases['peak_rss_mb']:.0f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    given = arguments(__doc__, "benchmarks/results/main")
    results = [load(folder) for folder in given.folders]
    text = "# The main job\n\n" + HEAD + "".join(rows(r) for r in results)
    text += (
        "\nFractions; 95 % bootstrap intervals over people, the strongest attacker's widened for the choice of it.\n"
        "Excess leakage is of the attacker that validation picked; beside it, that of the strongest on test, which no "
        "choice on\nvalidation flatters.\n"
    )
    write(results, text, given.out)


if __name__ == "__main__":
    main()
