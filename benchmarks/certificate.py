"""Does the certificate hold at its nominal rate? Thousands of drawn distributions, adversarial ones included.

python benchmarks/certificate.py --draws 4000 --seed 0 --out benchmarks/results/certificate

Each draw makes a joint distribution p(c, z) and n people from it, and asks whether A* = Σ_c max_z p(c,z) is at most the
bound. For one code and two classes, where the bound has the least to spare, coverage is computed exactly, over a grid
of p.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from efface.audit.certificate import binomial_bound, exact_accuracy, mcdiarmid_bound

Generator = np.random.Generator
Drawn = tuple[np.ndarray, int]
"""A joint distribution [M, A] and a number of people."""
BOUNDS = {"mcdiarmid": mcdiarmid_bound, "binomial": binomial_bound}


def dirichlet(g: Generator) -> Drawn:
    m, a = int(g.integers(2, 65)), int(g.integers(2, 11))
    return g.dirichlet(np.ones(m * a)).reshape(m, a), int(g.choice([50, 500, 5000]))


def uniform(g: Generator) -> Drawn:
    m, a = int(g.integers(1, 65)), int(g.integers(2, 11))
    return np.full((m, a), 1 / (m * a)), int(g.choice([50, 500, 5000]))


def near_ties(g: Generator) -> Drawn:
    p, n = uniform(g)
    p = p * (1 + 1e-3 * g.standard_normal(p.shape))
    return p / p.sum(), n


def many_codes(g: Generator) -> Drawn:
    """Far more codes than people; half of the draws hold all of z, half nothing of it."""
    m, a = 10_000, int(g.integers(2, 6))
    if g.random() < 0.5:
        p = np.zeros((m, a))
        p[np.arange(m), g.integers(0, a, m)] = 1 / m
        return p, int(g.choice([50, 500]))
    return np.full((m, a), 1 / (m * a)), int(g.choice([50, 500]))


def heavy_tails(g: Generator) -> Drawn:
    m, a = 2000, int(g.integers(2, 6))
    weight = 1 / np.arange(1, m + 1) ** g.uniform(0.8, 2)
    return (weight / weight.sum())[:, None] * g.dirichlet(np.full(a, 0.3), m), int(g.choice([50, 500, 5000]))


def clear_winners(g: Generator) -> Drawn:
    """Few codes with one class far ahead in each: the estimate is all but unbiased, and has nothing to spare."""
    m, a = int(g.integers(1, 9)), int(g.integers(2, 4))
    p = np.full((m, a), 0.0)
    lead = g.uniform(0.7, 0.95, m)
    p[:, 0], p[:, 1:] = lead, ((1 - lead) / (a - 1))[:, None]
    return p * g.dirichlet(np.ones(m))[:, None], int(g.choice([200, 1000, 5000]))


def one_code(g: Generator) -> Drawn:
    """A constant code: the attacker has the majority class and nothing else."""
    p = g.uniform(0.55, 0.99)
    return np.array([[p, 1 - p]]), int(g.choice([100, 1000, 5000]))


def all_told(g: Generator) -> Drawn:
    a = int(g.integers(2, 11))
    return np.diag(g.dirichlet(np.ones(a))), int(g.choice([20, 500]))


def few_people(g: Generator) -> Drawn:
    return dirichlet(g)[0], int(g.integers(1, 20))


def rare_class(g: Generator) -> Drawn:
    """One class in a hundred, told by a code of its own."""
    rare = g.uniform(0.002, 0.02)
    return np.array([[1 - rare, 0.1 * rare], [0.0, 0.9 * rare]]), int(g.choice([200, 2000]))


FAMILIES: dict[str, Callable[[Generator], Drawn]] = {
    f.__name__: f
    for f in (
        dirichlet, uniform, near_ties, many_codes, heavy_tails,
        clear_winners, one_code, all_told, few_people, rare_class,
    )
}  # fmt: skip


def held(family: str, confidence: float, draws: int, seed: int) -> dict[str, Any]:
    """Return how often each bound held over drawn distributions, and how far it was above the truth."""
    generator = np.random.default_rng([seed, list(FAMILIES).index(family)])
    found: dict[str, list[float]] = {name: [] for name in BOUNDS}
    for _ in range(draws):
        joint, n = FAMILIES[family](generator)
        counts = generator.multinomial(n, joint.ravel() / joint.sum()).reshape(joint.shape)
        truth, empirical = exact_accuracy(joint), counts.max(1).sum() / n
        for name, bound in BOUNDS.items():
            # Rounding of sums of probabilities is no failure.
            found[name].append(bound(float(empirical), n, confidence) - truth + 1e-12)
    rows = {}
    for name, slack in found.items():
        right = int((np.array(slack) >= 0).sum())
        interval = stats.binomtest(right, draws).proportion_ci(0.99, "exact")
        rows[name] = {
            "held": right / draws,
            "held_ci99": [round(interval.low, 5), round(interval.high, 5)],
            "mean_above_truth": round(float(np.mean(slack)), 5),
        }
    return rows


def exact_coverage(
    grid: np.ndarray, n: int, confidence: float, bound: Callable[[float, int, float], float]
) -> np.ndarray:
    """Return the probability that a bound holds for one code and two classes, for each p(z=0): no simulation."""
    right = np.arange(n + 1)
    bounds = np.array([bound(max(k, n - k) / n, n, confidence) for k in right])
    return np.array([stats.binom.pmf(right, n, p)[bounds + 1e-12 >= max(p, 1 - p)].sum() for p in grid])


def worst_cases(confidence: float, sizes: tuple[int, ...] = (10, 100, 1000), steps: int = 400) -> dict[str, Any]:
    """Return the least exact coverage over a grid of p, per n and bound."""
    grid = np.linspace(0.5, 0.9995, steps)
    rows: dict[str, Any] = {name: {} for name in BOUNDS}
    for name, bound in BOUNDS.items():
        for n in sizes:
            values = exact_coverage(grid, n, confidence, bound)
            rows[name][str(n)] = {
                "least": round(float(values.min()), 5),
                "at_p": round(float(grid[np.argmin(values)]), 4),
            }
    return rows


def run(draws: int, seed: int, confidences: tuple[float, ...] = (0.95, 0.8)) -> dict[str, Any]:
    """Return the whole simulation."""
    start = time.process_time()
    tables = {
        str(c): {"families": {f: held(f, c, draws, seed) for f in FAMILIES}, "exact": worst_cases(c)}
        for c in confidences
    }
    return {
        "what": "share of draws in which A* is at most the certified bound",
        "date": datetime.now(UTC).date().isoformat(),
        "draws_per_family": draws,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - start, 1),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": importlib.metadata.version("scipy"),
        },
        "command": f"python benchmarks/certificate.py --draws {draws} --seed {seed}",
        "confidence": tables,
    }


def hardware() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(result: dict[str, Any]) -> str:
    """Return the committed table."""
    lines = [
        "# The certificate, simulated",
        "",
        f"{result['date']}, seed {result['seed']}, {result['draws_per_family']} distributions per family and level, "
        f"{result['cpu_seconds']:.0f} s of one core of {result['hardware']}, numpy {result['versions']['numpy']}: "
        f"`{result['command']}`",
        "",
        "Share of draws in which A* = Σ_c max_z p(c,z) is at most the bound (99 % interval), and how far the bound is",
        "above A* on average, as a fraction. *mcdiarmid* is `Certificate.bound`, *binomial* is `Certificate.tighter`.",
        "The families are described in `benchmarks/certificate.py`.",
    ]
    for level, table in result["confidence"].items():
        lines += [
            "",
            f"## Confidence {level}",
            "",
            "| family | mcdiarmid held | above A* | binomial held | above A* |",
            "|---|---|---|---|---|",
        ]
        for family, rows in table["families"].items():
            cells = [
                f"{r['held']:.4f} [{r['held_ci99'][0]:.4f}, {r['held_ci99'][1]:.4f}] | {r['mean_above_truth']:.4f}"
                for r in rows.values()
            ]
            lines.append(f"| {family.replace('_', ' ')} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "One code, two classes: least coverage over a grid of p, exact.",
            "",
            "| bound | " + " | ".join(f"n = {n}" for n in next(iter(table["exact"].values()))) + " |",
            "|---|" + "---|" * len(next(iter(table["exact"].values()))),
        ]
        for name, sizes in table["exact"].items():
            cells = [f"{r['least']:.4f} (p = {r['at_p']:.3f})" for r in sizes.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000, help="distributions per family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/certificate"))
    arguments = parser.parse_args()
    result = run(arguments.draws, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "coverage.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / "README.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
