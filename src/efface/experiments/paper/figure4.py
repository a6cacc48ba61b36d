"""Figure 4: what decoders, trained afresh, draw from the features of baseline 1 and of the unlearned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from efface.audit.features import device_of, extract_layers
from efface.audit.reconstruction import choose_people, images_of, reconstruct
from efface.data.load import load
from efface.experiments.paper import gallery
from efface.experiments.paper.cells import Cell, Workshop, cuts, weights_of
from efface.experiments.paper.page import Page, Picture
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import ATTRIBUTE, DATASETS, NAMES
from efface.models import split
from efface.report.formats import number

MODEL = "resnet18"
ROWS = {"images": "image", "original": "from baseline 1", "unlearned": "from unlearned"}
SPLITS = ("train", "test")


def make(plan: Plan, shop: Workshop) -> Page:
    """Draw the figure."""
    groups, rows = {}, []
    for dataset in DATASETS:
        task, attribute = plan.tasks[dataset], ATTRIBUTE[dataset]
        cell = plan.unlearning(task, [attribute], MODEL, plan.seeds[0])
        shop.run(cell)
        name = f"figure4-{cell.id}-{plan.scale.faces}-{plan.scale.reconstruction_epochs}"
        arrays = gallery.kept(
            shop.folder / "pictures" / f"{name}.npz",
            lambda cell=cell: pictures(cell, shop, plan),  # type: ignore[misc]
        )
        shown = f"{NAMES[dataset]} ({task.shown})"
        groups[f"{shown}: {task.columns[attribute]} unlearned"] = {row: arrays[key] for key, row in ROWS.items()}
        quality = [number(float(value), 2) for value in arrays["quality"]]
        rows.append((shown, task.columns[attribute], *quality))
    alt = "People of each data set: as they are, drawn from the original's features, and from the unlearned model's."
    title = "Figure 4: reconstructions"
    picture = Picture("figure4", title, alt, lambda: gallery.figure(groups))
    head = ("data", "unlearned", "PSNR from baseline 1, dB", "SSIM", "PSNR from unlearned, dB", "SSIM")
    notes = (
        f"Scale `{plan.scale.name}`: {plan.scale.about}. Decoders learn for {plan.scale.reconstruction_epochs} epochs.",
        *(f"{task.note[0].upper()}{task.note[1:]}." for task in plan.tasks.values() if task.note),
        "A blurred drawing is no proof that an attribute is gone: attackers read more than eyes do. Table 1 has their "
        "figures.",
        *gallery.warning(plan.tasks),
    )
    lede = "Test people as they are, and as decoders draw them from the features of each model."
    return Page("figure4", title, lede, head, tuple(rows), notes, (picture,))


def pictures(cell: Cell, shop: Workshop, plan: Plan) -> Mapping[str, np.ndarray]:
    """Return the images, both drawings, and PSNR and SSIM of both."""
    config = cell.config
    data = load(config.data, config.seed, shop.progress)
    column = data.attributes[0]
    people = choose_people(data.split_labels("test", column.name), column.n_classes, plan.scale.faces, config.seed)
    models = {"original": shop.original(config, data), "unlearned": weights_of(shop, cell, data)}
    found: dict[str, Any] = {"images": images_of(data, "test", people)}
    quality = []
    for name, model in models.items():
        shop.tell(f"figure4, {cell.name}: decoder of the {name} features")
        at = split(model, cuts(config)).at[0]
        features = extract_layers(model, data, [at], SPLITS)[at]
        epochs = plan.scale.reconstruction_epochs
        drawn = reconstruct(features, data, people, epochs=epochs, seed=config.seed, device=device_of(model))
        found[name] = drawn.pictures
        quality += [drawn.psnr, drawn.ssim]
    return {**found, "quality": np.array(quality)}
