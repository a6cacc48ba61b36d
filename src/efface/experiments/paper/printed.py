"""What the paper prints in tables 1 to 3, cell by cell, and the least that guessing without features reaches.

Source: Guo et al. (2022), section 4. Fractions; seconds per epoch; memory as printed, without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass

MODELS = ("resnet18", "resnet34", "resnet50")
DATASETS = ("fairface", "celeba", "cifar10")
BASELINE_2, UNLEARNING, BASELINE_1 = "masked_retrain", "detachment", "original"
ROLES = {BASELINE_2: "baseline 2", UNLEARNING: "unlearning", BASELINE_1: "baseline 1"}
"""Methods by the columns of table 1: masked retrain, attribute unlearning, the original model."""
NAMES = {
    "fairface": "Fairface",
    "celeba": "CelebA",
    "cifar10": "Cifar10",
    "resnet18": "ResNet18",
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
}
"""As the paper writes them."""


@dataclass(frozen=True)
class Printed:
    """A printed result.

    Attributes:
        efficacy: Accuracy of the attacker, a fraction; the lower the better.
        fidelity: Accuracy of the main task.
        aum: Harmonic mean of 1 − efficacy and fidelity, as printed; None in table 2.
    """

    efficacy: float
    fidelity: float
    aum: float | None = None


@dataclass(frozen=True)
class PrintedSpeed:
    """A row of table 2: raw (end to end) against local.

    Attributes:
        latency: Seconds per epoch, raw and local.
        memory: As printed, raw and local.
        saving: Share of the memory that is saved, as printed.
        speedup: As printed.
        raw: Efficacy and fidelity of end-to-end training.
        local: Those of local training.
    """

    latency: tuple[float, float]
    memory: tuple[float, float]
    saving: float
    speedup: float
    raw: Printed
    local: Printed


def _row(*values: float) -> dict[str, Printed]:
    """Return a row of table 1: efficacy, fidelity and AUM of three columns."""
    return {role: Printed(*values[3 * i : 3 * i + 3]) for i, role in enumerate(ROLES)}


TABLE_1: dict[tuple[str, str], dict[str, Printed]] = {
    ("fairface", "resnet18"): _row(0.1421, 0.5810, 0.6928, 0.1352, 0.7950, 0.8284, 0.3107, 0.8330, 0.7544),
    ("fairface", "resnet34"): _row(0.1325, 0.5801, 0.6953, 0.1350, 0.7988, 0.8306, 0.2844, 0.8340, 0.7703),
    ("fairface", "resnet50"): _row(0.1367, 0.5730, 0.6889, 0.1365, 0.8077, 0.8347, 0.2977, 0.8470, 0.7679),
    ("celeba", "resnet18"): _row(0.4989, 0.5010, 0.5144, 0.5142, 0.7830, 0.5994, 0.6391, 0.7901, 0.4955),
    ("celeba", "resnet34"): _row(0.5077, 0.5010, 0.4966, 0.5035, 0.7930, 0.6107, 0.6010, 0.8032, 0.5332),
    ("celeba", "resnet50"): _row(0.4976, 0.5110, 0.5067, 0.5082, 0.8101, 0.6120, 0.6572, 0.8121, 0.4821),
    ("cifar10", "resnet18"): _row(0.1030, 0.5443, 0.6775, 0.1095, 0.9351, 0.9123, 0.2668, 0.9610, 0.8318),
    ("cifar10", "resnet34"): _row(0.1010, 0.5070, 0.6484, 0.1057, 0.9360, 0.9147, 0.2357, 0.9632, 0.8523),
    ("cifar10", "resnet50"): _row(0.0993, 0.5130, 0.6537, 0.0982, 0.9452, 0.9230, 0.3226, 0.9681, 0.7971),
}
"""By data set and model, then by method."""

TABLE_2: dict[str, PrintedSpeed] = {
    "resnet18": PrintedSpeed(
        (32.297, 24.265), (281.01, 231.49), 0.188, 1.331, Printed(0.1039, 0.9301), Printed(0.0996, 0.9351)
    ),
    "resnet34": PrintedSpeed(
        (45.580, 34.308), (416.03, 327.49), 0.213, 1.328, Printed(0.1164, 0.9297), Printed(0.1057, 0.9360)
    ),
    "resnet50": PrintedSpeed(
        (63.632, 44.790), (546.17, 438.87), 0.196, 1.421, Printed(0.1129, 0.9436), Printed(0.0982, 0.9452)
    ),
}
"""By model; on CIFAR-10, as its fidelities tell."""

TABLE_3: dict[tuple[str, str], Printed] = {
    ("fairface", "race"): Printed(0.1352, 0.7950, 0.8284),
    ("fairface", "age"): Printed(0.1729, 0.8081, 0.8175),
    ("celeba", "Mustache"): Printed(0.5243, 0.7874, 0.5931),
    ("celeba", "Male"): Printed(0.5142, 0.7830, 0.5996),
    ("celeba", "Big_Nose"): Printed(0.5267, 0.7798, 0.5891),
    ("cifar10", "class"): Printed(0.1095, 0.9351, 0.9123),
}
"""ResNet18, by data set and attribute."""

ATTRIBUTE = {"fairface": "race", "celeba": "Male", "cifar10": "class"}
"""What table 1 unlearns."""


@dataclass(frozen=True)
class Blind:
    """What is reached without looking at features.

    Attributes:
        guess: Accuracy on the attribute of one who knows y.
        why: Where that comes from.
    """

    guess: float
    why: str


_CELEBA = "label floor given Smiling, of the 10,000 CelebA faces at hand"
FLOORS: dict[tuple[str, str], Blind] = {
    ("fairface", "race"): Blind(1 / 7, "chance over 7 classes; the floor is no lower"),
    ("fairface", "age"): Blind(1 / 9, "chance over 9 classes; the floor is no lower"),
    ("celeba", "Mustache"): Blind(0.9626, _CELEBA),
    ("celeba", "Male"): Blind(0.5783, _CELEBA),
    ("celeba", "Big_Nose"): Blind(0.7597, _CELEBA),
    ("cifar10", "class"): Blind(0.2, "label floor, exact: 0.6·1/6 + 0.4·1/4"),
}
MAJORITY: dict[str, Blind] = {
    "celeba": Blind(0.5178, "share of faces that don't smile, of the 10,000 at hand"),
    "cifar10": Blind(0.6, "share of living classes, exact"),
}
"""What a constant answer to the main task reaches; FairFace's images can't be had here."""
