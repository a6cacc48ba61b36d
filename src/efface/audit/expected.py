"""What an audit's attackers cost, told before it starts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from efface.audit.attack import members_of
from efface.audit.attackers import Attacker
from efface.audit.attackers.conv import SmallConvolution
from efface.audit.attackers.cost import network_seconds
from efface.audit.controls import EPOCHS, PEOPLE
from efface.audit.plan import Plan
from efface.audit.plants import channels_of

REFERENCE = ((128, 8, 8), 16_000, 5, 12)
"""What costs are told for where no data is at hand: features, training people, classes, epochs."""


@dataclass(frozen=True)
class Cost:
    """What attackers take on one core of the machine that the rates are of.

    Attributes:
        fits: How often an attacker is trained, controls aside.
        seconds: By attacker, over all its fits; NaN: not known, as of an attacker of one's own.
        controls: Seconds of the controls.
    """

    fits: int
    seconds: Mapping[str, float]
    controls: float

    @property
    def total(self) -> float:
        """Seconds of what is known."""
        return self.controls + sum(value for value in self.seconds.values() if not math.isnan(value))

    def describe(self, suite: str, pace: float = 1.0) -> str:
        """Return the announcement.

        Args:
            suite: Its name.
            pace: Seconds here per second there.
        """
        each = ", ".join(
            f"{name} {'?' if math.isnan(value) else spoken(value * pace)}" for name, value in self.seconds.items()
        )
        unknown = [name for name, value in self.seconds.items() if math.isnan(value)]
        more = f" and whatever {', '.join(unknown)} takes" if unknown else ""
        return (
            f"Suite {suite}: {len(self.seconds)} attackers, {self.fits} fits, and controls; about "
            f"{spoken(self.total * pace)} on this machine for attackers{more}.\n  {each}, "
            f"controls {spoken(self.controls * pace)}"
        )


def cost(
    plan: Plan,
    shapes: Sequence[tuple[int, ...]],
    people: int,
    classes: Sequence[int],
    models: int = 2,
    epochs: int = 12,
    outputs: int = 2,
) -> Cost:
    """Return what a plan's attackers cost.

    Args:
        plan: Who attacks, and how often.
        shapes: Of one person's features, for each layer attacked.
        people: Training people.
        classes: Of each attribute.
        models: 2 with an original.
        epochs: Most epochs.
        outputs: Number of the model's logits; 0: none.

    Example:
        >>> from efface.config import AuditConfig
        >>> found = cost(Plan.of(AuditConfig(suite="quick")), [(64, 8, 8)], 1000, [2])
        >>> found.fits, round(found.controls) < round(found.total)
        (6, True)
    """
    fits, seconds, controls = 0, dict[str, float](), 0.0
    members, together = members_of(plan.attackers)
    for shape in shapes:
        asked = [one for one in members if one.applies(shape, outputs) is None]
        for number in classes:
            for attacker in asked:
                times = models * plan.seeds
                fits += times
                one = times * attacker.seconds(people, shape, number, epochs)
                seconds[attacker.name] = seconds.get(attacker.name, 0.0) + one
                controls += control_seconds(attacker, shape, people, number, epochs)
    if together:
        seconds["ensemble"] = 0.5 * models * plan.seeds * len(shapes) * len(classes)
    return Cost(fits, seconds, controls)


def control_seconds(attacker: Attacker, shape: tuple[int, ...], people: int, classes: int, epochs: int) -> float:
    """Return what the controls of an attacker cost, on one attribute at one layer; 0 where that is not known."""
    channels = len(channels_of(shape, np.random.default_rng(0)))
    part = (shape[0], channels) if len(shape) == 2 else (channels, *shape[1:])
    planted = attacker.seconds(min(people, PEOPLE["train"]), part, classes, min(epochs, EPOCHS["planted"]))
    shuffled = attacker.seconds(min(people, PEOPLE["train"] // 2), part, classes, min(epochs, EPOCHS["shuffled"]))
    return 0.0 if math.isnan(planted + shuffled) else planted + shuffled


def measured_pace(steps: int = 3) -> float:
    """Return how long this machine takes per second of the rates: a few steps of a small network are timed.

    Takes a fraction of a second; load from other programs counts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, inputs = SmallConvolution(64, 2, 96, 8).train(), torch.randn(256, 64, 8, 8)
        labels = torch.zeros(256, dtype=torch.long)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        times = []
        for _ in range(1 + steps):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(inputs).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
    with torch.device("meta"):
        predicted = network_seconds(SmallConvolution(64, 2, 96, 8), torch.empty(2, 64, 8, 8), 256, 1)
    # The first step also sets up; the fastest of the others is the least disturbed.
    return min(times[1:]) / predicted


def spoken(seconds: float) -> str:
    """Return a duration to the precision that an estimate has.

    Example:
        >>> spoken(0.2), spoken(34.2), spoken(400), spoken(9000)
        ('<1 s', '34 s', '7 min', '2.5 h')
    """
    if seconds < 1:
        return "<1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
