"""Decoders before and after: how alike their drawings are, what of an attribute is seen in them, and the drawings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from efface.audit.attack import Settings
from efface.audit.progress import Bars
from efface.audit.reconstruction import Reconstruction, captions, choose_people, images_of, reconstruct
from efface.audit.recovery import Draw, fit_reader, recover
from efface.audit.subject import Subject
from efface.data.dataset import AttributeDataset

ROLES = {"original": "original", "model": "unlearned"}
READER_EPOCHS = 6


@dataclass(frozen=True)
class Drawn:
    """What decoders made of an audit.

    Attributes:
        quality: PSNR and SSIM by model.
        pictures: For the report: the same people before and after.
        recovery: Attributes read off the drawings by a classifier of real images, by attribute; or None.
    """

    quality: dict[str, dict[str, float]] | None = None
    pictures: dict[str, Any] | None = None
    recovery: dict[str, Any] | None = None


def draw(subject: Subject, data: AttributeDataset, settings: Settings, shown: Bars, *, read: bool = False) -> Drawn:
    """Train decoders on both models' features, and draw the same people; only where there is a before.

    Args:
        subject: What is audited.
        data: The images.
        settings: How long, on which split, from which seed.
        shown: Where progress is shown.
        read: Whether to read attributes off the drawings, too.
    """
    config = settings.config
    if not config.reconstruction or subject.original is None:
        return Drawn()
    first = subject.attributes[0]
    people = choose_people(data.split_labels(config.split, first.name), first.n_classes, config.faces, settings.seed)
    advance = shown.open("decoders", 2 * config.reconstruction_epochs)

    def one(role: str) -> Reconstruction:
        return reconstruct(
            subject.sets[role],
            data,
            people,
            split=config.split,
            epochs=config.reconstruction_epochs,
            width=config.reconstruction_width,
            seed=settings.seed,
            device=settings.device,
            tick=lambda: advance(f"decoder of the {ROLES[role]} features", 1),
        )

    found = {called: one(role) for role, called in ROLES.items()}
    pictures = {
        "images": images_of(data, config.split, people),
        **{name: made.pictures for name, made in found.items()},
        "labels": np.array(captions(data, config.split, people)),
    }
    quality = {name: made.figures() for name, made in found.items()}
    return Drawn(quality, pictures, _recovery(found, subject, data, settings, shown) if read else None)


def _recovery(
    found: dict[str, Reconstruction], subject: Subject, data: AttributeDataset, settings: Settings, shown: Bars
) -> dict[str, Any] | None:
    """Attributes seen in the drawings of everybody, where decoders can be asked for these."""
    draws: dict[str, Draw] = {name: made.draw for name, made in found.items() if getattr(made, "draw", None)}
    if len(draws) < len(found):
        return None
    advance = shown.open("classifier of real images", READER_EPOCHS)
    reader = fit_reader(
        data,
        subject.attributes,
        epochs=READER_EPOCHS,
        seed=settings.seed,
        device=settings.device,
        tick=lambda: advance("classifier of real images", 1),
    )
    every = recover(reader, draws, data, subject.task, subject.split, settings.how)
    return {one.attribute: one.to_dict() for one in every}
