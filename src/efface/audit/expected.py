"""What an audit's attackers cost, told before it starts."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from efface.audit.attack import members_of
from efface.audit.attackers import Attacker
from efface.audit.attackers.conv import SmallConvolution
from efface.audit.attackers.cost import network_seconds
from efface.audit.attackers.training import NetworkAttacker
from efface.audit.controls import EPOCHS, PEOPLE
from efface.audit.plan import Plan
from efface.audit.plants import channels_of
from efface.engine.devices import has_fast_bfloat16

SMALL = 128
"""People in a step that is timed."""
PRODUCTS = 2.5e10
"""Multiply-adds in float64 per second, of the machine that the rates are of."""


@dataclass(frozen=True)
class Cost:
    """What attackers take.

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

    def describe(self, suite: str) -> str:
        """Return the announcement."""
        each = ", ".join(
            f"{name} {'?' if math.isnan(value) else spoken(value)}" for name, value in self.seconds.items()
        )
        unknown = [name for name, value in self.seconds.items() if math.isnan(value)]
        more = f" and whatever {', '.join(unknown)} takes" if unknown else ""
        return (
            f"Suite {suite}: {len(self.seconds)} attackers, {self.fits} fits, and controls; about "
            f"{spoken(self.total)} for attackers if this machine does nothing else{more}.\n  {each}, "
            f"controls {spoken(self.controls)}"
        )


def cost(
    plan: Plan,
    shapes: Sequence[tuple[int, ...]],
    people: int,
    classes: Sequence[int],
    models: int = 2,
    epochs: int = 12,
    outputs: int = 2,
    pace: Pace | None = None,
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
        pace: Of this machine; None: the one that the rates are of.

    Example:
        >>> from efface.config import AuditConfig
        >>> found = cost(Plan.of(AuditConfig(suite="quick")), [(64, 8, 8)], 1000, [2])
        >>> found.fits, round(found.controls) < round(found.total)
        (6, True)
    """
    fits, seconds, controls, pace = 0, dict[str, float](), 0.0, pace or Pace()
    members, together = members_of(plan.attackers)
    times = models * plan.seeds
    # Networks are counted once for all attributes of as many classes.
    for (shape, number), often in Counter((shape, number) for shape in shapes for number in classes).items():
        for attacker in members:
            if attacker.applies(shape, outputs) is None:
                fits += times * often
                one = pace.of(attacker) * attacker.seconds(people, shape, number, epochs)
                seconds[attacker.name] = seconds.get(attacker.name, 0.0) + times * often * one
                controls += often * pace.of(attacker) * control_seconds(attacker, shape, people, number, epochs)
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


@dataclass(frozen=True)
class Pace:
    """How long this machine takes for what the rates' machine does in a second.

    Attributes:
        networks: Training, in the precision that attackers compute in here.
        others: Matrix products in float64, which stand for what is no network.
    """

    networks: float = 1.0
    others: float = 1.0

    @classmethod
    def measured(cls, steps: int = 4) -> Pace:
        """Time a few small steps, in seconds of the processor: other programs disturb little."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network, inputs = SmallConvolution(64, 2, 96, 8).train(), torch.randn(SMALL, 64, 8, 8)
            labels, matrix = torch.zeros(SMALL, dtype=torch.long), torch.randn(384, 384, dtype=torch.float64)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, has_fast_bfloat16()):
                loss = F.cross_entropy(network(inputs).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        with torch.device("meta"):
            predicted = network_seconds(SmallConvolution(64, 2, 96, 8), torch.empty(2, 64, 8, 8), SMALL, 1, SMALL)
        products = len(matrix) ** 3 / PRODUCTS
        return cls(_fastest(step, steps) / predicted, _fastest(lambda: matrix @ matrix, steps) / products)

    def of(self, attacker: Attacker) -> float:
        """Return what an attacker's seconds are multiplied by."""
        return self.networks if isinstance(attacker, NetworkAttacker) else self.others


def _fastest(step: Callable[[], object], times: int) -> float:
    """Seconds that the fastest step would take if this program had its threads' cores for itself."""
    found = []
    for _ in range(times):
        start = time.process_time()
        step()
        found.append(time.process_time() - start)
    return min(found) / torch.get_num_threads()


def spoken(seconds: float) -> str:
    """Return a duration to the precision that an estimate has.

    Example:
        >>> spoken(0.2), spoken(34.2), spoken(400.0), spoken(9000.0)
        ('<1 s', '34 s', '7 min', '2.5 h')
    """
    if seconds < 1:
        return "<1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
