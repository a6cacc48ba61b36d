"""What an attack costs, from counts of multiplications and the rates of one core, so that it can be told beforehand.

Rates were measured on one core of a server of 2023 that multiplies bf16 matrices in hardware (AMX): see
``docs/attackers/suites.md``. Elsewhere the figure is off by the ratio of the speeds; the shares of the attackers stay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from efface.shapes import Features

MULTIPLICATIONS = 2.0e11
"""Multiply-adds per second of convolutions and matrix products in bf16, forward and backward."""
TOUCHES = 6.0e8
"""Numbers per second that are read, standardised, normalised and passed through an activation."""
UPDATES = 3.0e8
"""Weights per second that are updated, averages included."""
EVALUATED = 0.5
"""Validation and test people, per training person: read once per epoch and once."""


def network_seconds(network: nn.Module, inputs: Features, people: int, epochs: int, batch: int = 256) -> float:
    """Return about how long a network trains on one core.

    Args:
        network: On the ``meta`` device: nothing is computed.
        inputs: Of a few people, on the ``meta`` device.
        people: Training people.
        epochs: Most epochs.
        batch: People per step.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(inputs)
    products = counter.get_total_flops() / 2 / len(inputs)
    weights = sum(parameter.numel() for parameter in network.parameters())
    touched = inputs[0].numel() + products / 200
    # Backward costs twice forward; held-out people go forward only.
    per_person = products * (3 + EVALUATED) / MULTIPLICATIONS + touched * (1 + EVALUATED) / TOUCHES
    return epochs * (people * per_person + people / batch * weights / UPDATES)
