"""What does each attacker find of the truth? Features whose Bayes accuracy and I(h; z) are known.

python benchmarks/calibration.py --scale full --seed 0 --out benchmarks/results/calibration

The problems are those of `efface.audit.calibration`. Each attacker learns as in an audit (train, validation picks),
then guesses people it never saw. Since p(z|h) of each of them is known, nothing rests on the draw of z: an attacker's
accuracy is the mean of p(guess|h), and its regret, the mean of max_z p(z|h) − p(guess|h), is 0 for the best of all
attackers.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

from efface.audit.attack import attack_seed
from efface.audit.attackers import ATTACKERS, Budget, FeatureView, build_attacker
from efface.audit.attackers.ensemble import combine
from efface.audit.calibration import PROBLEMS, KnownProblem, Sample, build_problem
from efface.audit.intervals import mean_interval
from efface.audit.store import stored_from_arrays

WANTED = 0.95
"""Share of the Bayes excess that the ensemble should find."""
LEARNED_BY_HEART = "Where validation picks an epoch well before the last, more epochs would not have helped."


@dataclass(frozen=True)
class Scale:
    people: tuple[int, int, int]
    """Training, validation and test people."""
    epochs: int
    attackers: tuple[str, ...] = tuple(ATTACKERS)


MAPS_ONLY = dict.fromkeys(("resnet18", "resnet18-mixed"), "left out on vectors, which are maps of one pixel to it")
SCALES = {
    "smoke": Scale((600, 300, 600), 3, ("mlp", "linear", "least-squares", "knn", "trees", "ensemble")),
    "full": Scale((4000, 1000, 4000), 10),
}


def draw(problem: KnownProblem, sizes: Sequence[int], seed: int) -> tuple[dict[str, FeatureView], Sample]:
    """Return views of train, validation and test, and the test people with their posterior."""
    names = ("train", "validation", "test")
    drawn = {
        name: problem.draw(n, np.random.default_rng([seed, place]))
        for place, (name, n) in enumerate(zip(names, sizes, strict=True))
    }
    stored = stored_from_arrays({name: one.features for name, one in drawn.items()}, exact=True)
    views = {name: FeatureView.of(stored[name], one.labels, problem.classes) for name, one in drawn.items()}
    return views, drawn["test"]


def measure(logits: torch.Tensor, test: Sample, problem: KnownProblem) -> dict[str, Any]:
    """Return how much of the truth an attacker's logits hold."""
    guess = logits.argmax(1).numpy()
    expected = test.posterior[np.arange(len(guess)), guess]
    regret = test.posterior.max(1) - expected
    shares = np.array(problem.shares)
    said = logits.double().log_softmax(1).numpy() / np.log(2)
    found: dict[str, Any] = {
        "accuracy": float(expected.mean()),
        "accuracy_on_drawn_z": float((guess == test.labels).mean()),
        "bits": float(-(shares * np.log2(shares)).sum() + (test.posterior * said).sum(1).mean()),
    }
    excess = problem.bayes - problem.floor
    if excess > 0:
        low, high = mean_interval(regret)
        found |= {"share": 1 - float(regret.mean()) / excess, "share_ci95": [1 - high / excess, 1 - low / excess]}
    else:
        low, high = mean_interval(expected)
        found["accuracy_ci95"] = [low, high]
    return {key: np.round(value, 4).tolist() for key, value in found.items()}


def attack(problem: KnownProblem, scale: Scale, seed: int) -> dict[str, Any]:
    """Return what each attacker, and all together, find in one problem."""
    views, test = draw(problem, scale.people, seed)
    rows: dict[str, Any] = {}
    said: dict[str, dict[str, torch.Tensor]] = {"validation": {}, "test": {}}
    skipped = {}
    for name in scale.attackers:
        attacker = build_attacker(name)
        reason = attacker.applies(problem.shape) or (MAPS_ONLY.get(name) if len(problem.shape) == 1 else None)
        if name == "ensemble" or reason:
            skipped |= {name: reason} if reason else {}
            continue
        start = time.process_time()
        budget = Budget(scale.epochs, seed=attack_seed(seed, problem.name, name))
        fitted = attacker.fit(views["train"], views["validation"], budget)
        for split, logits in said.items():
            logits[name] = fitted.predict_logits(views[split])
        rows[name] = {
            **measure(said["test"][name], test, problem),
            "validation_accuracy": round(fitted.validation_accuracy, 4),
            "epoch": fitted.epoch,
            "cpu_seconds": round(time.process_time() - start, 1),
            "warning": fitted.warning,
        }
        print(f"{problem.name:14} {name:14} {rows[name]}", flush=True)
    together = combine(said["validation"], views["validation"].labels, seed)
    rows["ensemble"] = {
        **measure(together.logits(said["test"]), test, problem),
        "validation_accuracy": round(together.validation_accuracy, 4),
        "weights": {name: round(weight, 3) for name, weight in together.weights.items()},
        "note": together.note,
    }
    print(f"{problem.name:14} {'ensemble':14} {rows['ensemble']}", flush=True)
    return {
        "what": (type(problem).__doc__ or "").split("\n")[0],
        "shape": list(problem.shape),
        "floor": round(problem.floor, 4),
        "bayes": round(problem.bayes, 4),
        "bits": round(problem.bits, 4),
        "attackers": rows,
        "skipped": skipped,
    }


def run(scale: str, seed: int, names: Sequence[str], done: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the table after each problem; those that are done already are taken over."""
    problems = dict(done)
    for name in names:
        if name not in problems:
            start = time.process_time()
            found = attack(build_problem(name), SCALES[scale], seed)
            problems[name] = {**found, "cpu_seconds": round(time.process_time() - start, 1)}
        ordered = {one: problems[one] for one in PROBLEMS if one in problems}
        total = round(sum(one["cpu_seconds"] for one in ordered.values()), 1)
        yield {**about(scale, seed), "cpu_seconds": total, "problems": ordered}


def finished(path: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return problems that an interrupted run of the same origin, on the same day, has finished."""
    before = json.loads(path.read_text()) if path.exists() else {}
    same = all(before.get(key) == value for key, value in origin.items())
    return before["problems"] if same else {}


def about(scale: str, seed: int) -> dict[str, Any]:
    """Return where the figures come from."""
    return {
        "what": "share of the Bayes excess that attackers find, where the Bayes accuracy is known",
        "date": datetime.now(UTC).date().isoformat(),
        "scale": scale,
        "people": dict(zip(("train", "validation", "test"), SCALES[scale].people, strict=True)),
        "epochs": SCALES[scale].epochs,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "command": f"python benchmarks/calibration.py --scale {scale} --seed {seed}",
    }


def hardware() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(result: dict[str, Any]) -> str:
    """Return the committed table."""
    people, problems = result["people"], result["problems"]
    lines = [
        "# The auditor, calibrated",
        "",
        f"{result['date']}, seed {result['seed']}, {people['train']} training, {people['validation']} validation and "
        f"{people['test']} test people, at most {result['epochs']} epochs, {result['threads']} thread of "
        f"{result['hardware']}, {result['cpu_seconds']:.0f} s of CPU, torch {result['versions']['torch']}: "
        f"`{result['command']}`",
        "",
        "The Bayes excess is the accuracy of the best of all attackers less that of a blind guess. *Share* is how much",
        "of it the ensemble of all attackers finds, with a 95 % bootstrap interval over the test people; p(z|h) of",
        "each of them is known, so the draw of z adds no noise. Bits are held-out lower bounds of I(h; z).",
        "",
        "| problem | what tells z | blind guess | Bayes | ensemble | share | I(h; z), bits | found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in problems.items():
        found = one["attackers"]["ensemble"]
        lines.append(
            f"| {name} {_shape(one)} | {one['what']} | {one['floor']:.3f} | {one['bayes']:.3f} | "
            f"{found['accuracy']:.3f} | {_share(found, True)} | {one['bits']:.3f} | {found['bits']:.3f} |"
        )
    lines += ["", *_verdict(problems), "", "## Each attacker: share of the Bayes excess", ""]
    known = [name for name, one in problems.items() if "share" in one["attackers"]["ensemble"]]
    lines += ["| attacker | " + " | ".join(known) + " |", "|---|" + "---|" * len(known)]
    present = {attacker for one in problems.values() for attacker in one["attackers"]}
    names = [name for name in ATTACKERS if name in present]
    for attacker in names:
        cells = [_share(problems[name]["attackers"].get(attacker, {}), False) for name in known]
        lines.append(f"| `{attacker}` | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Below 0: worse than a blind guess. –: nothing to read there (`skipped` in the JSON says why); `output` reads",
        "a model's own answer, and here is no model.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(problems: Mapping[str, Any]) -> list[str]:
    short = {
        name: one["attackers"]["ensemble"]["share"]
        for name, one in problems.items()
        if one["attackers"]["ensemble"].get("share", 1.0) < WANTED
    }
    if not short:
        lines = [f"The ensemble finds at least {WANTED:.0%} of the Bayes excess on every problem."]
    else:
        told = ", ".join(f"{name} ({share:.1%}; alone {_alone(problems[name])})" for name, share in short.items())
        lines = [f"The ensemble falls short of {WANTED:.0%} of the Bayes excess on: {told}.", LEARNED_BY_HEART]
    for name, one in problems.items():
        if "share" not in one["attackers"]["ensemble"]:
            accuracies = {a: row["accuracy"] for a, row in one["attackers"].items()}
            top = max(accuracies, key=lambda attacker: accuracies[attacker])
            lines.append(
                f"On {name} the blind guess has {one['floor']:.3f}; the highest of the attackers is `{top}` with "
                f"{accuracies[top]:.3f}, the ensemble has {accuracies['ensemble']:.3f}."
            )
    return lines


def _alone(one: Mapping[str, Any]) -> str:
    """Name the attacker that finds most without the others, and the epoch that validation picked."""
    rows = {name: row for name, row in one["attackers"].items() if name != "ensemble"}
    name = max(rows, key=lambda attacker: rows[attacker]["share"])
    return f"`{name}` {rows[name]['share']:.1%}, at epoch {rows[name]['epoch']}"


def _shape(one: Mapping[str, Any]) -> str:
    return "×".join(str(side) for side in one["shape"])


def _share(found: Mapping[str, Any], interval: bool) -> str:
    if "share" not in found:
        return "–"
    low, high = found["share_ci95"]
    return f"{found['share']:.1%}" + (f" [{low:.1%}, {high:.1%}]" if interval else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calibration"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = finished(arguments.out / "calibration.json", about(arguments.scale, arguments.seed))
    for result in run(arguments.scale, arguments.seed, arguments.problems, done):
        (arguments.out / "calibration.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        (arguments.out / "README.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
