"""From finished cells to the numbers of a table: both efficacies, AUM, excess leakage, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from efface.audit.metrics import aum, aum_ceiling, efficacy, excess_leakage
from efface.report.formats import DASH, is_number, number

PAPERS_ATTACKER = "resnet18"
"""Section 4.2: a ResNet18 on the feature map, its accuracy as it is."""


@dataclass(frozen=True)
class Figures:
    """One method, one attribute, one seed; fractions.

    Attributes:
        protocol: Accuracy of the paper's attacker; None where it was not in the suite.
        strongest: Accuracy of the attacker that validation picks, two-sided if the attribute is binary.
        fidelity: Accuracy of the main task.
        protocol_aum: AUM of the paper's attacker.
        strongest_aum: AUM of the strongest.
        ceiling: AUM of one who knows y alone, at fidelity 1.
        floor: Label floor.
        majority: Share of the most frequent class.
        chance: 1/A.
        excess: Excess leakage; None where it has no meaning.
        images: Of each split.
    """

    protocol: float | None
    strongest: float
    fidelity: float
    protocol_aum: float | None
    strongest_aum: float
    ceiling: float
    floor: float
    majority: float
    chance: float
    excess: float | None
    images: Mapping[str, int]


def after(cell: Mapping[str, Any], column: str, before: Mapping[str, Any] | None = None) -> Figures:
    """Return the figures of a cell's model.

    Args:
        cell: A finished cell.
        column: Of the attribute.
        before: The cell whose original is the ceiling, where this one was audited alone.
    """
    audit = cell["audit"]
    entry = audit["attributes"][column]
    excess = entry["excess_leakage"]
    if entry["original_best"] is None and before is not None:
        original = before["audit"]["attributes"][column]["original_best"]
        excess = excess_leakage(entry["best"]["accuracy"], original, entry["floors"]["label"])
    return _figures(cell, entry, entry["attackers"], entry["best"]["accuracy"], audit["fidelity"]["value"], excess)


def before(cell: Mapping[str, Any], column: str) -> Figures:
    """Return the figures of the original model that was audited beside a cell's."""
    entry = cell["audit"]["attributes"][column]
    original = cell["audit"]["fidelity"]["original"]
    excess = None if entry["excess_leakage"] is None else 1.0
    return _figures(cell, entry, entry["original_attackers"], entry["original_best"], original, excess)


def _figures(
    cell: Mapping[str, Any],
    entry: Mapping[str, Any],
    attackers: Sequence[Mapping[str, Any]],
    best: float,
    fidelity: float,
    excess: float | None,
) -> Figures:
    classes, floors = len(entry["classes"]), entry["floors"]
    protocol = next((one["accuracy"] for one in attackers if one["name"] == PAPERS_ATTACKER), None)
    strongest = efficacy(best, classes)
    return Figures(
        protocol=protocol,
        strongest=strongest,
        fidelity=fidelity,
        protocol_aum=None if protocol is None else aum(protocol, fidelity),
        strongest_aum=aum(strongest, fidelity),
        ceiling=aum_ceiling(efficacy(floors["label"], classes)),
        floor=floors["label"],
        majority=floors["majority"],
        chance=floors["chance"],
        excess=excess,
        images=cell["images"],
    )


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Return the mean, and the lowest and highest where there are several.

    Example:
        >>> spread([0.5]), spread([0.5, 0.6]), spread([None])
        ('0.500', '0.550 (0.500–0.600)', '–')
    """
    known = [value for value in values if is_number(value)]
    if not known:
        return DASH
    text = number(mean(known), digits)
    return text if len(known) == 1 else f"{text} ({number(min(known), digits)}–{number(max(known), digits)})"


def of(figures: Sequence[Figures], name: str) -> str:
    """Return one figure over the seeds."""
    return spread([getattr(one, name) for one in figures])


def counts(figures: Sequence[Figures]) -> str:
    """Return how many images were trained and read on."""
    images = figures[0].images
    return f"{images['train']:,} / {images['test']:,}"
