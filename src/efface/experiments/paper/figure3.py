"""Figure 3: where a classifier of the attribute looks, and what baseline 2 trains on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from efface.audit.reconstruction import choose_people
from efface.data.load import load
from efface.engine import Job
from efface.experiments.paper import gallery
from efface.experiments.paper.cells import Cell, Workshop, cuts
from efface.experiments.paper.page import Page, Picture
from efface.experiments.paper.plan import Plan
from efface.experiments.paper.printed import ATTRIBUTE, DATASETS, NAMES
from efface.experiments.paper.tasks import Task
from efface.experiments.runner import fresh_model
from efface.methods.masked_retrain import figure_three, train_classifier

MODEL = "resnet18"
ROWS = {"images": "image", "attention": "attention", "masked": "key area\nremoved"}


def make(plan: Plan, shop: Workshop) -> Page:
    """Draw the figure."""
    groups = {}
    for dataset in DATASETS:
        task, attribute = plan.tasks[dataset], ATTRIBUTE[dataset]
        cell = plan.masked(task, [attribute], MODEL, plan.seeds[0])
        arrays = gallery.kept(
            shop.folder / "pictures" / f"figure3-{cell.id}.npz",
            lambda task=task, cell=cell: pictures(cell, shop, task, plan.scale.faces),  # type: ignore[misc]
        )
        title = f"{NAMES[dataset]} ({task.shown}): {task.columns[attribute]}"
        groups[title] = {label: arrays[name] for name, label in ROWS.items()}
    alt = "People of each data set: as they are, with a classifier's attention to the attribute, and without that area."
    title = "Figure 3: attention and masked images"
    picture = Picture("figure3", title, alt, lambda: gallery.figure(groups))
    config = plan.masked(plan.tasks["celeba"], ["Male"], MODEL, plan.seeds[0]).config
    notes = (
        f"Scale `{plan.scale.name}`: {plan.scale.about}.",
        *(f"{task.note[0].upper()}{task.note[1:]}." for task in plan.tasks.values() if task.note),
        f"Grad-CAM of the class that the classifier guesses, at `{cuts(config)[0]}`; an image is masked where the "
        "attention "
        f"reaches {config.method.mask.threshold:g} of its highest value, and filled with: {config.method.mask.fill}.",
        *gallery.warning(plan.tasks),
    )
    lede = "First row: test images; second: where a classifier of the attribute looks; third: what baseline 2 sees."
    return Page("figure3", title, lede, notes=notes, pictures=(picture,))


def pictures(cell: Cell, shop: Workshop, task: Task, faces: int) -> Mapping[str, np.ndarray]:
    """Return images, attention and masked images of test people; baseline 2's classifier is used where it is there."""
    config, folder = cell.config, shop.folder / "runs" / cell.id
    shop.tell(f"figure3, {task.dataset}: classifier of {', '.join(config.data.attributes)}")
    data = load(config.data, config.seed, shop.progress)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")  # baseline 2 goes on from here
    job = Job(
        folder=folder,
        fingerprint=config.fingerprint(),
        seed=config.seed,
        resume=True,
        progress=shop.progress,
        augment=(config.data.flip, config.data.shift),
    )
    model, column = fresh_model(config, data, "unlearned"), data.attributes[0]
    classifier, _ = train_classifier(model, data, cuts(config)[0], column.name, config.method, config.engine, job)
    people = choose_people(data.split_labels("test", column.name), column.n_classes, faces, config.seed)
    found = figure_three(classifier, data, config.method.mask, data.rows("test")[people].tolist(), config.seed)
    return {"images": found.images, "attention": found.attention, "masked": found.masked}
