"""Turn audits of finished runs into committed results: who found what, before and after, and what one attacker misses.

python benchmarks/audits.py runs/utkface-gender-race-standard … --out benchmarks/results/audit
"""

from __future__ import annotations

from typing import Any

from summarise import arguments, load, write

PAPER = "resnet18"
"""The paper's only attacker: a ResNet-18 on (h, z)."""
HEAD = (
    "| attacker | after | bits | bits beyond the task answer | on the original | seconds |\n|---|---|---|---|---|---|\n"
)


def with_interval(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.3f} [{row['ci'][0]:.3f}, {row['ci'][1]:.3f}]"


def section(result: dict[str, Any]) -> str:
    """Return the attackers of a run, in words and as a table."""
    audit, lines = result["audit"], []
    fidelity, phases = audit["fidelity"], audit["phases"]
    for name, entry in audit["attributes"].items():
        excess, controls = entry["excess_leakage"], audit["controls"][name]
        planted, shuffled = controls["planted"]["attackers"], controls["shuffled"]
        fit = sum(bool(row["fit"]) for row in planted)
        before = {row["name"]: row for row in entry["original_attackers"]}
        lines += [
            f"## {audit['name']}: {name}, at {audit['model']['at']}, method {result['config']['method']['name']}",
            "",
            f"{entry['verdict'].capitalize()}. Label floor {entry['floors']['label']:.3f}, majority "
            f"{entry['floors']['majority']:.3f}, chance {entry['floors']['chance']:.3f}; n = {entry['n']}; fidelity "
            f"{fidelity['original']:.3f} → {fidelity['value']:.3f}; excess leakage {excess:.3f} "
            f"[{entry['excess_leakage_ci'][0]:.3f}, {entry['excess_leakage_ci'][1]:.3f}] ({entry['best']['attacker']}, "
            f"picked on validation), {entry['highest']['excess_leakage']:.3f} by the strongest on test.",
            f"Controls {'passed' if controls['passed'] else 'failed'}: {fit} of {len(planted)} attackers find what is "
            f"planted; on shuffled labels {shuffled['covered']} of {len(shuffled['attackers'])} intervals cover the "
            f"floor and {shuffled['above']} are above it. The audit took {phases['audit_s']:.0f} s: features "
            f"{phases['features_s']:.0f}, attacks {phases['attacks_s']:.0f}, controls {phases['controls_s']:.0f}.",
            "",
            HEAD
            + "\n".join(
                f"| {row['name']} | {with_interval(row)} | {row['bits']:.3f} | {row['conditional_bits']:.3f} "
                f"| {before[row['name']]['accuracy']:.3f} | {row['seconds'] + before[row['name']]['seconds']:.0f} |"
                for row in entry["attackers"]
            ),
            "",
        ]
        rows = {row["name"]: row for row in entry["attackers"]}
        if PAPER in rows:
            ours, theirs, floor = entry["best"], rows[PAPER]["accuracy"], entry["floors"]["label"]
            missed, above = ours["accuracy"] - theirs, ours["accuracy"] - floor
            was = before[ours["attacker"]]["accuracy"] - before[PAPER]["accuracy"]
            lines += [
                f"**The paper's protocol beside ours.** Its single attacker, a ResNet-18, gets {theirs:.3f} where the "
                f"suite's pick, {ours['attacker']}, gets {ours['accuracy']:.3f}: it misses {100 * missed:.1f} points, "
                f"or {100 * missed / above:.0f} % of what is above the label floor. On the original model it "
                f"misses {100 * was:.1f} points.",
                "",
            ]
    return "\n".join(lines)


def main() -> None:
    given = arguments(__doc__, "benchmarks/results/audit")
    results = [load(folder) for folder in given.folders]
    for result in results:
        attackers = ",".join(result["audit"]["suite"]["attackers"])
        if result["config"]["audit"]["suite"] != "standard":
            result["environment"]["command"] += "; efface audit RUN --suite standard"
            result["environment"]["command"] += f" --attackers {attackers}" if PAPER in attackers else ""
    text = (
        "# Standard audits of the real presets\n\nThe original and the unlearned model of each, attacked by the suite "
        "`standard`, and by others\nwhere a table names them; accuracies are fractions with 95 % bootstrap intervals "
        "over people.\n\n"
    )
    write(results, text + "\n".join(section(result) for result in results), given.out)


if __name__ == "__main__":
    main()
