"""A rich sample run folder: drawn faces, plausible numbers, no training."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from efface.config import Config

NAMES = ("resnet18", "mlp", "linear")


def attackers(accuracies: tuple[float, ...], warning: str | None = None) -> list[dict[str, Any]]:
    """Return a run per attacker."""
    return [
        {
            "name": name,
            "accuracy": accuracy,
            "ci": [accuracy - 0.018, min(accuracy + 0.017, 1.0)],
            "bits": round(max(2 * (accuracy - 0.52) ** 2, 0.001), 4),
            "validation_accuracy": accuracy + 0.006,
            "epoch": 7 - i,
            "seconds": 31.4 / (i + 1),
            "warning": warning if i == 2 else None,
        }
        for i, (name, accuracy) in enumerate(zip(NAMES, accuracies, strict=True))
    ]


def attribute(verdict: str, after: tuple[float, ...], before: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """Return an attribute; the first attacker is the best on validation."""
    runs = attackers(after, more.pop("warning", None))
    top = max(runs, key=lambda run: run["accuracy"])
    floors = more.pop("floors", {"chance": 0.5, "majority": 0.513, "label": 0.521})
    return {
        "classes": ["no", "yes"],
        "n": 2000,
        "floors": floors,
        "original_best": before[0],
        "best": {"attacker": "resnet18", "accuracy": after[0], "ci": runs[0]["ci"], "bits": runs[0]["bits"]},
        "highest": {"attacker": top["name"], "accuracy": top["accuracy"], "ci": top["ci"]},
        "attackers": runs,
        "original_attackers": attackers(before),
        "excess_leakage": max(after[0] - floors["label"], 0) / (before[0] - floors["label"]),
        "excess_leakage_ci": [
            max(after[0] + shift - floors["label"], 0) / (before[0] - floors["label"]) for shift in (-0.018, 0.017)
        ],
        "efficacy": after[0],
        "aum": 0.637,
        "aum_ceiling": 0.643,
        "original_aum": 0.052,
        "verdict": verdict,
        "warnings": more.pop("warnings", []),
        **more,
    }


def audit() -> dict[str, Any]:
    """Return an audit with all three verdicts."""
    columns = {
        "target": column("smiling", ["neutral", "smiling"]),
        "attributes": [column("glasses", ["no", "yes"]), column("skin tone", ["light", "medium", "dark"])],
        "others": [column("hat", ["no", "yes"])],
    }
    return {
        "schema_version": "1.0",
        "created": "2025-03-14T15:09:26+00:00",
        "name": "toyfaces-glasses",
        "seed": 0,
        "split": "test",
        "confidence": 0.95,
        "data": {
            "name": "toyfaces",
            "target": "smiling",
            "attributes": ["glasses", "skin tone", "hair colour"],
            "image_shape": [3, 64, 64],
            "n": {"train": 14000, "validation": 2000, "test": 2000},
            "warnings": ["12 images of the test split are also in train; they were left out of test."],
            "schema": columns,
        },
        "model": {
            "name": "resnet18",
            "at": "layer2",
            "parameters": 11177538,
            "feature_shape": [128, 8, 8],
            "auxiliary": {
                "parameters": 912_441,
                "share_parameters": 0.0816,
                "flops": 96_100_000,
                "share_flops": 0.212,
            },
        },
        "threat": {"description": "The attacker sees the features at layer2 and has no access to the encoder."},
        "fidelity": {"value": 0.968, "ci": [0.96, 0.9755], "original": 0.9735, "original_ci": [0.966, 0.98], "n": 2000},
        "attributes": {
            "glasses": attribute("at the floor for this suite", (0.527, 0.531, 0.519), (0.987, 0.982, 0.951)),
            "skin tone": attribute(
                "leaks",
                (0.612, 0.588, 0.547),
                (0.941, 0.93, 0.874),
                classes=["light", "medium", "dark"],
                floors={"chance": 0.3333, "majority": 0.402, "label": 0.431},
            ),
            "hair colour": attribute(
                "inconclusive",
                (0.541, 0.506, 0.471),
                (0.904, 0.9, 0.81),
                warning="linear stayed below the majority floor, which it should reach",
            ),
        },
        "reconstruction": {"original": {"psnr": 24.1, "ssim": 0.861}, "unlearned": {"psnr": 21.7, "ssim": 0.794}},
        "phases": {
            "read_s": 3.2,
            "train_s": 138.1,
            "train_unlearned_s": 96.4,
            "train_original_s": 41.7,
            "audit_s": 61.0,
            "features_s": 4.2,
            "attacks_s": 48.1,
            "reconstruction_s": 8.7,
            "report_s": 1.9,
            "peak_rss_mb": 1912.4,
        },
        "warnings": ["Deterministic algorithms were off on this device; numbers may differ in the last digit."],
    }


def figure(value: float, spread: float = 0.02) -> dict[str, Any]:
    """Return a figure with its interval."""
    return {"value": value, "ci": [value - spread, value + spread]}


def full_audit() -> dict[str, Any]:
    """Return an audit of schema 1.1 with every optional section."""
    made = copy.deepcopy(audit()) | {"schema_version": "1.1"}
    for name, found in made["attributes"].items():
        for run in (*found["attackers"], *found["original_attackers"]):
            run |= {
                "bits_ci": [run["bits"] - 0.01, run["bits"] + 0.01], "balanced_accuracy": run["accuracy"] - 0.004,
                "balanced_accuracy_ci": None, "auc": 0.55, "auc_ci": [0.53, 0.57], "conditional_bits": run["bits"] / 2,
                "conditional_bits_ci": [0.0, 0.01], "seeds": 3, "per_seed": [run["accuracy"]] * 3,
                "note": "linear 50%, mlp 50%" if name == "glasses" else None,
            }  # fmt: skip
        found |= {"certificate": None, "skipped": {"tokens": "`tokens` reads tokens, and these are maps."}}
    made["attributes"]["skin tone"]["attackers"][1] |= {"fit": False, "unfit": "is blind"}
    made["attributes"]["glasses"]["certificate"] = {
        "bound": 0.53801, "empirical": 0.521, "n": 5000, "n_codes": 64, "confidence": 0.95, "tighter": 0.5331,
        "checked": True, "description": "Certified: no attacker can exceed 0.539 with 95 % confidence.",
    }  # fmt: skip
    return made | {
        "suite": {
            "name": "standard", "attackers": list(NAMES), "seeds": 3, "epochs": 12, "beyond": ["selectivity"],
            "seconds": {"resnet18": 61.0, "mlp": 4.2, "linear": 2.1},
        },
        "controls": {"glasses": control(), "skin tone": control(("mlp",))},
        "learning_curve": {"glasses": {
            "attribute": "glasses", "attacker": "mlp", "gain": figure(0.004, 0.01), "rising": False,
            "points": [{"people": n, "accuracy": figure(a)} for n, a in ((7000, 0.526), (14000, 0.53))],
        }},
        "layers": {"glasses": layer_map()},
        "other_layers": {"layer3": {"feature_shape": [256, 4, 4], "attributes": made["attributes"]}},
        "selectivity": {"columns": [survival("hat", 0.98), survival("age", None)], "median_share": 0.98,
                        "skipped": {"id": "3000 classes of at least 30 training people: too many to probe."}},
        "numbers": {"skin tone": {
            "attribute": "skin tone", "n": 2000, "value": figure(0.04), "original": figure(0.61),
            "target": figure(0.01), "gain": figure(0.03), "excess": figure(0.05),
            "regressors": {"ridge": 0.03, "mlp": 0.04, "trees": 0.02}, "picked": ["mlp", "ridge"],
        }},
        "fairness": {"glasses": parity()},
        "training_people": {"glasses": {"attribute": "glasses", "difference": figure(-0.01), **{
            name: {**figure(0.53), "people": 1000} for name in ("own", "matched", "unseen")}}},
        "intersections": {"glasses × hat": pair()},
        "recovery": {"glasses": {
            "attribute": "glasses", "n": 2000, "floors": {"chance": 0.5, "majority": 0.513, "label": 0.521},
            "real": figure(0.99, 0.005), "drawn": {"original": figure(0.93), "unlearned": figure(0.53)},
            "share": {"original": figure(0.88), "unlearned": None}, "change": figure(-0.4),
        }},
    }  # fmt: skip


def control(unfit: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the controls showed; some attackers found nothing."""
    rows = [
        {
            "name": name, "accuracy": 0.52 if name in unfit else 0.64, "fit": name not in unfit,
            "reason": "is blind" if name in unfit else None, "share": figure(0.02 if name in unfit else 0.91, 0.1),
        }
        for name in NAMES
    ]  # fmt: skip
    quiet = [{"name": name, "accuracy": 0.515, "ci": [0.493, 0.537], "alarm": False} for name in NAMES]
    return {
        "passed": True, "failed": [], "people": {"train": 4000, "validation": 1500, "audited": 2000},
        "features": [32, 8, 8], "seconds": 21.0, "original": {"given": True, "seen": True, "best": 0.987},
        "planted": {
            "floor": 0.521, "bayes": 0.671, "epochs": 6, "powerless": None, "attackers": rows,
            "separation": 6.0, "amplitude": 0.31,
        },
        "shuffled": {
            "floor": 0.521, "epochs": 3, "people": {"train": 2000, "validation": 750, "audited": 1000}, "shuffles": 1,
            "covered": 3, "above": 0, "below": 0, "attackers": quiet,
        },
    }  # fmt: skip


def layer_map() -> dict[str, Any]:
    """Return an attribute from the input to the logits."""
    rows = {"input": (0.99, 0.99), "layer1": (0.81, 0.985), "layer2": (0.53, 0.98), "logits": (0.525, 0.71)}
    points = [
        {
            "layer": layer, "attacker": "mlp", "accuracy": figure(now), "bits": figure(now - 0.5),
            "excess": figure(now - 0.52), "implied": now, "original": figure(before),
            "original_bits": figure(before - 0.5),
            "excess_leakage": figure(0.1) if layer == "layer2" else None, "comes_back": layer == "logits",
        }
        for layer, (now, before) in rows.items()
    ]  # fmt: skip
    warning = "Probes read more of glasses behind `layer2`, at `logits`, than at it."
    return {
        "attribute": "glasses", "n": 2000, "floor": 0.521, "majority": 0.513, "released": "layer2", "points": points,
        "warnings": [warning],
    }  # fmt: skip


def survival(name: str, share: float | None) -> dict[str, Any]:
    """Return a column that was not asked for."""
    return {
        "column": name, "classes": ["no", "yes"], "n": 2000, "majority": 0.5, "accuracy": figure(0.96),
        "original": figure(0.97), "share": None if share is None else figure(share), "raw_share": figure(0.99),
        "overlap": 0.02, "attackers": ["mlp", "linear"], "note": None,
    }  # fmt: skip


def parity() -> dict[str, Any]:
    """Return the task in two groups."""
    groups = [
        {"group": g, "n": 1000, "small": g == "yes", "accuracy": figure(0.97), "original": figure(0.975),
         "change": figure(-0.005)}
        for g in ("no", "yes")
    ]  # fmt: skip
    one = {"metric": "accuracy", "value": figure(0.01), "original": figure(0.012), "change": figure(-0.002),
           "target_class": None, "groups": ["no", "yes"]}  # fmt: skip
    return {"attribute": "glasses", "target": "smiling", "n": 2000, "groups": groups, "differences": {"accuracy": one},
            "notes": ["Fewer than 30 people: yes. Left out of the differences."]}  # fmt: skip


def pair() -> dict[str, Any]:
    """Return two attributes guessed as one."""
    made = attribute("at the floor for this suite", (0.27, 0.26, 0.25), (0.93, 0.9, 0.8))
    floors = {
        "chance": 0.25,
        "majority": 0.26,
        "label": 0.27,
        "given": {"glasses": 0.52, "hat": 0.53},
        "interaction_bits": 0.01,
    }
    return {**made, "classes": ["no · no", "no · yes", "yes · no", "yes · yes"], "product_floors": floors}


def column(name: str, classes: list[str]) -> dict[str, Any]:
    """Return a column with counts."""
    counts = {split: [n // len(classes)] * len(classes) for split, n in (("train", 14000), ("validation", 2000))}
    counts["test"] = [2000 // len(classes)] * len(classes)
    return {"name": name, "classes": classes, "counts": counts, "missing": {"train": 3, "validation": 0, "test": 0}}


def bare_audit() -> dict[str, Any]:
    """Return what `efface.audit(model, data)` gives: no original, no phases but one."""
    made = copy.deepcopy(audit())
    made["attributes"] = {"glasses": made["attributes"]["glasses"]}
    glasses = made["attributes"]["glasses"]
    for name in ("original_best", "original_attackers", "excess_leakage", "excess_leakage_ci", "original_aum"):
        glasses[name] = None
    made["fidelity"] |= {"original": None, "original_ci": None}
    made["reconstruction"] = None
    made["model"]["auxiliary"] = None
    del made["data"]["schema"], made["phases"]
    return made


def metrics() -> list[dict[str, Any]]:
    """Return the lines of a training run: original and unlearned."""
    rng = np.random.default_rng(0)
    lines = []
    for model, epochs in (("original", 6), ("unlearned", 10)):
        steps = 110 * epochs
        for step in range(20, steps + 1, 4):
            t = step / steps
            noise = rng.normal(0, 0.03)
            values = {"loss/classifier": 0.62 * np.exp(-4 * t) + 0.1 + noise, "lr": 2e-3 * np.cos(t * np.pi / 2)}
            if model == "unlearned":
                values |= {
                    "loss/extractor": 1.4 * np.exp(-2 * t) + 0.4 + noise,
                    "reconstruction_nats": 6900 - 700 * t + 60 * noise,
                    "target_bits": 0.8 + 0.1 * t + noise,
                    "removal_bits/glasses": max(0.9 * np.exp(-6 * t) + noise / 3, 0.0),
                    "removal_bits/skin tone": max(1.1 * np.exp(-4 * t) + noise / 3, 0.0),
                    "removal_weight": 2 * min(t / 0.15, 1),
                }
            lines.append(line(model, step, step / 110, "train", values))
        for epoch in range(1, epochs + 1):
            values = {
                "fidelity": (0.974 if model == "original" else 0.968) - 0.25 * np.exp(-epoch / (1.2 + steps / 900))
            }
            if model == "unlearned":
                values["removal_accuracy/glasses"] = 0.52 + 0.46 * np.exp(-epoch / 2)
                values["removal_accuracy/skin tone"] = 0.55 + 0.4 * np.exp(-epoch / 3)
            lines.append(line(model, 110 * epoch, epoch, "validation", values))
    return lines


def line(model: str, step: int, epoch: float, split: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a line of metrics.jsonl."""
    plain = {name: float(value) for name, value in values.items()}
    return {"model": model, "step": step, "epoch": float(epoch), "split": split, "metrics": plain}


def faces(n: int = 8, size: int = 64) -> dict[str, np.ndarray]:
    """Draw n simple faces, and what two decoders could make of them (blurred; then without glasses)."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    rows: dict[str, list[np.ndarray]] = {"images": [], "original": [], "unlearned": []}
    labels = []
    for i in range(n):
        glasses, smiling = i % 2 == 0, i % 3 != 0
        sharp, plain = (drawn(x, y, i, worn, smiling) for worn in (glasses, False))
        for name, picture in (("images", sharp), ("original", blurred(sharp)), ("unlearned", blurred(blurred(plain)))):
            rows[name].append((picture * 255).astype(np.uint8))
        labels.append(f"{'glasses' if glasses else 'no glasses'} · {'smiling' if smiling else 'neutral'}")
    return {name: np.stack(pictures) for name, pictures in rows.items()} | {"labels": np.array(labels)}


def drawn(x: np.ndarray, y: np.ndarray, seed: int, glasses: bool, smiling: bool) -> np.ndarray:
    """Draw one face, [3, H, W] in [0, 1]."""
    rng = np.random.default_rng(seed)
    skin, ground, hair = (
        rng.uniform(0.45, 0.9) * np.array([1, 0.8, 0.65]),
        rng.uniform(0.3, 0.8, 3),
        rng.uniform(0, 0.4, 3),
    )
    picture = np.broadcast_to(ground[:, None, None], (3, *x.shape)).copy()

    def paint(mask: np.ndarray, colour: np.ndarray) -> None:
        picture[:, mask] = colour[:, None]

    paint(((x - 0.5) / 0.34) ** 2 + ((y - 0.45) / 0.4) ** 2 < 1, hair)
    paint(((x - 0.5) / 0.29) ** 2 + ((y - 0.55) / 0.36) ** 2 < 1, skin)
    for centre in (0.39, 0.61):
        distance = np.hypot(x - centre, y - 0.5)
        paint(distance < 0.035, np.array([0.1, 0.1, 0.15]))
        if glasses:
            paint(np.abs(distance - 0.085) < 0.016, np.array([0.05, 0.05, 0.08]))
    mouth = 0.76 - (1.6 if smiling else 0.0) * (x - 0.5) ** 2
    paint((np.abs(y - mouth) < 0.016) & (np.abs(x - 0.5) < 0.13), np.array([0.6, 0.2, 0.2]))
    return picture


def blurred(picture: np.ndarray) -> np.ndarray:
    """Average over 5×5 neighbours."""
    out = picture
    for axis in (1, 2):
        out = np.mean([np.roll(out, shift, axis) for shift in range(-2, 3)], axis=0)
    return out


def write_run(folder: Path, **changes: Any) -> Path:
    """Write a whole run folder and return it; ``changes`` replace parts of the audit."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(audit() | changes))
    (folder / "config.yaml").write_text(Config.from_mapping({"name": "toyfaces-glasses"}).to_yaml())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    (folder / "environment.json").write_text(json.dumps(environment()))
    np.savez(folder / "reconstructions.npz", **dict[str, Any](faces()))
    return folder


def write_small_run(folder: Path, **changes: Any) -> Path:
    """Write a run folder with one attribute and a few lines of everything."""
    write_run(folder, attributes={"glasses": audit()["attributes"]["glasses"]}, **changes)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()[:2]))
    np.savez(folder / "reconstructions.npz", **dict[str, Any](faces(1, 16)))
    return folder


def environment() -> dict[str, Any]:
    """Return a machine."""
    return {
        "python": "3.11.9",
        "torch": "2.6.0",
        "versions": {"timm": "1.0.15", "numpy": "2.2.3", "efface": "0.1.0"},
        "hardware": {"cpu": "AMD EPYC 7763", "cores": 2, "memory_gb": 7.8, "accelerator": None},
        "command": "efface run toyfaces-glasses --out runs/toyfaces-glasses",
        "started": "2025-03-14T15:04:02+00:00",
        "seed": 0,
    }
