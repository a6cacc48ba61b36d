"""Audit two models that were not made by efface: a plain timm ResNet-18 and a ViT, trained on UTKFace gender.

python benchmarks/foreign_models.py --data DIR [--out benchmarks/results/foreign] [--work runs/foreign] [--epochs 10]

Training is a plain PyTorch loop over timm's own models that imports nothing of efface. What it leaves is a file of
weights; each is then attacked by the standard suite at three layers, by the command line, as an auditor would do it.
Finished models and audits in --work are kept and used again: remove what is to be made anew.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import timm.layers
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

MODELS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "resnet18": ({}, ("layer2", "layer3", "layer4")),
    "vit_tiny_patch16_224": ({"img_size": 64, "patch_size": 8, "depth": 6}, ("blocks.1", "blocks.3", "blocks.5")),
}
"""Name in timm → options of its constructor, and the layers that are attacked, the deepest last."""
HEAD = (
    "| model | fidelity | layer | attribute | label floor | no attacker exceeded | strongest | verdict | controls |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return all images of a split, uint8 [N, 3, 64, 64], and gender."""
    table = pq.read_table(sorted(folder.glob(f"**/{split}*.parquet")), columns=["image", "gender"])
    images = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["image"].to_pylist()])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(table["gender"].to_pylist())


def prepared(images: Tensor) -> Tensor:
    """Return images in the range that efface feeds to models: (raw01 - 0.5) / 0.25."""
    return ((images.float() / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def train(name: str, data: Path, epochs: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train timm's model on gender; return it with its accuracy on validation."""
    begun = time.perf_counter()
    torch.manual_seed(seed)
    timm.layers.set_fused_attn(False)  # PyTorch's own attention is twice as slow on CPUs, backward, in bf16
    model = timm.create_model(name, num_classes=2, **MODELS[name][0]).to(memory_format=torch.channels_last)
    images, labels = read(data, "train")
    steps = epochs * (len(images) // 128)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            if len(rows) < 128:
                continue
            batch = prepared(images[rows])
            flipped = torch.rand(len(batch)) < 0.5
            batch[flipped] = batch[flipped].flip(-1)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(batch).float(), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    model.eval()
    images, labels = read(data, "validation")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        right = sum(
            int((model(prepared(part)).argmax(1) == truth).sum())
            for part, truth in zip(images.split(256), labels.split(256), strict=True)
        )
    return model, {"validation_accuracy": right / len(images), "train_s": round(time.perf_counter() - begun, 1)}


def audit(name: str, weights: Path, data: Path, attributes: str, out: Path) -> None:
    """Attack a model by the command line."""
    options, layers = MODELS[name]
    command = [str(Path(sys.executable).with_name("efface")), "audit", "--model", name, "--weights", str(weights)]
    command += ["--at", ",".join(reversed(layers)), "--data", str(data), "--target", "gender"]
    command += ["--attributes", attributes, "--suite", "standard", "--out", str(out), "--overwrite", "--quiet"]
    if name.startswith("vit"):
        # Readers of maps see tokens as a strip: the reader that is made for tokens takes their place. Trees are slow.
        command += ["--attackers", "tokens,mlp,linear,least-squares,knn,output,ensemble"]
    for key, value in options.items():
        command += ["--set", f"model.options.{key}={value}"]
    subprocess.run(command, check=True)


def rows(name: str, found: dict[str, Any]) -> str:
    """Return a table row per layer and attribute, in the model's order."""
    fidelity, lines = found["fidelity"], []
    attacked = {found["model"]["at"]: found, **found["other_layers"]}
    for layer in MODELS[name][1]:
        for attribute, entry in attacked[layer]["attributes"].items():
            highest, control = entry["highest"], (attacked[layer].get("controls") or {}).get(attribute)
            lines.append(
                f"| {name} | {fidelity['value']:.3f} [{fidelity['ci'][0]:.3f}, {fidelity['ci'][1]:.3f}] "
                f"| {layer} | {attribute} | {entry['floors']['label']:.3f} "
                f"| {highest['accuracy']:.3f} [{highest['ci'][0]:.3f}, {highest['ci'][1]:.3f}] "
                f"| {highest['attacker']} | {entry['verdict']} "
                f"| {'passed' if control and control['passed'] else 'failed' if control else '–'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/foreign"))
    parser.add_argument("--work", type=Path, default=Path("runs/foreign"))
    parser.add_argument("--attributes", default="race,age_bin")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    lines, notes = "", []
    for name in MODELS:
        weights, about = arguments.work / f"{name}.safetensors", arguments.work / f"{name}.json"
        if not about.exists():
            model, trained = train(name, arguments.data, arguments.epochs, arguments.seed)
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights)
            about.write_text(json.dumps({"epochs": arguments.epochs, "seed": arguments.seed, **trained}))
        trained = json.loads(about.read_text())
        place = arguments.work / name
        if not (place / "audit.json").exists():
            audit(name, weights, arguments.data, arguments.attributes, place)
        found = json.loads((place / "audit.json").read_text())
        environment = json.loads((arguments.work / name / "environment.json").read_text())
        environment.pop("command", None)
        result = {"model": name, "training": trained, "environment": environment, "audit": found}
        (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        lines += rows(name, found)
        notes.append(
            f"- {name}: {found['created'][:10]}, {trained['epochs']} epochs in {trained['train_s']:.0f} s, accuracy "
            f"{trained['validation_accuracy']:.3f} on validation; n = {found['fidelity']['n']} test people; the audit "
            f"({', '.join(found['suite']['attackers'])}) took {found['phases']['audit_s']:.0f} s; "
            f"seed {found['seed']}, {environment['hardware']['cpu']}, torch "
            f"{environment['torch']}, timm {timm.__version__}"
        )
    text = "# Models that were not made by efface\n\nTrained on UTKFace gender by a plain PyTorch loop "
    text += (
        "(`python benchmarks/foreign_models.py --data DIR`), attacked by\n`efface audit --model NAME --weights FILE "
    )
    text += "--at LAYERS --suite standard`. Nothing was unlearned: this is what such models reveal.\n\n"
    text += HEAD + lines + "\nFractions; 95 % bootstrap intervals over people, widened for the choice of the attacker. "
    text += "No original: no excess leakage.\n\n" + "\n".join(notes) + "\n"
    (arguments.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
