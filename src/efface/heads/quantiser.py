"""Layers at the cut that release one integer per image: a finite scalar quantiser, and the task's own guess.

Source: finite scalar quantisation, Mentzer et al. (2023); straight-through, Bengio et al. (2013); from soft to
hard, Agustsson et al. (2017). Ours: one code for the whole image instead of one per position, and bins of equal width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from efface.errors import ConfigError, Problems, expected
from efface.heads.classifier import TRUNKS
from efface.heads.positions import from_positions, position_groups, size_of
from efface.heads.release import CodedRelease
from efface.shapes import Features, Labels, Progress, warmed

CELLS = 16
"""Most groups of positions that a code's values are laid out over."""
SHARPNESS = 2.0
"""Of the soft assignment to levels: how much a distance of one bin costs, in nats."""


class Quantiser(CodedRelease):
    """Reads the features into a few numbers, rounds each to its levels, and releases features made of these alone.

    Args:
        shape: Shape of one sample's features.
        levels: Levels of each number; their product is M, the number of codes.
        width: Channels of the network that reads.
        soften: Share of training over which rounding sets in; 0: from the first step. What is released moves from the
            numbers themselves to their levels' centres meanwhile: numbers are sorted by the target before they are cut
            at thresholds, where a few that are cut at random may stay so. Nothing but training knows of it.

    Attributes:
        latest: ``[B, M]`` assignment of the last training batch to the codes: one-hot, with the gradient of a soft
            assignment. For the objective of the same step; None outside training.

    Raises:
        ConfigError: A number of levels is below 2.

    Example:
        >>> quantiser = Quantiser(shape=(8, 4, 4), levels=(2, 3)).eval()
        >>> h = torch.randn(5, 8, 4, 4)
        >>> quantiser.n_codes, quantiser(h).shape
        (6, torch.Size([5, 8, 4, 4]))
        >>> torch.equal(quantiser.read(quantiser(h)), quantiser.codes(h))
        True
    """

    kind: ClassVar[str] = "quantiser"

    def __init__(self, shape: Sequence[int], levels: Sequence[int], width: int = 64, soften: float = 0.0):
        super().__init__(shape=list(shape), levels=list(levels), width=width)
        check_levels(levels)
        self.soften = soften
        self.shape, self.levels, self.n_codes = tuple(shape), tuple(levels), math.prod(levels)
        channels, positions = size_of(shape)
        groups = position_groups(shape, channels * min(CELLS, positions))
        self.register_buffer("groups", groups)
        self.register_buffer("centres", _centres(levels))
        self.register_buffer("counts", torch.tensor(self.levels), persistent=False)
        self.register_buffer("hardness", torch.ones(()), persistent=False)
        self.trunk = TRUNKS["conv"](shape, width)
        self.encode = nn.Linear(width, len(levels))
        # Standardised, each number starts in the middle of its levels: no level is empty from the beginning.
        self.standardise = nn.BatchNorm1d(len(levels), affine=False)
        self.decode = nn.Linear(len(levels), channels * (int(groups.max()) + 1))
        self.latest: Tensor | None = None

    def forward(self, features: Features) -> Features:
        """Return features that are a function of the code alone, in their own type."""
        with torch.autocast(features.device.type, enabled=False):
            position = self._position(features)
            index = self._index(position)
            centre = self._centre(index)
            if self.training:
                self.latest = self._assignment(position, index)
                values = position + self.get_buffer("hardness") * (centre - position).detach()
            else:
                # Exactly the centres: position + (centre − position) would carry rounding errors that tell more.
                self.latest, values = None, centre
            return self._lay_out(values).to(features.dtype)

    def advance(self, progress: Progress) -> None:
        """Round as hard as is due at this share of training."""
        self.get_buffer("hardness").fill_(warmed(progress, self.soften))

    @torch.no_grad()
    def codes(self, features: Features) -> Int[Tensor, " B"]:
        """Return each image's code, 0 to M − 1, of the features as they come in."""
        with torch.autocast(features.device.type, enabled=False):
            return self._code(self._index(self._position(features)))

    @torch.no_grad()
    def table(self) -> Features:
        """Return what is released for each code."""
        return self._lay_out(self.get_buffer("centres"))

    def _position(self, features: Features) -> Float[Tensor, "B L"]:
        """Return where each number lies on its scale, -1 to 1."""
        return torch.tanh(self.standardise(self.encode(self.trunk(features.float()))))

    def _index(self, position: Float[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """Return each number's level, 0 to levels − 1: bins of equal width."""
        levels = self.get_buffer("counts")
        return torch.minimum(((position.detach() + 1) / 2 * levels).long(), levels - 1)

    def _centre(self, index: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        return (2 * index + 1) / self.get_buffer("counts") - 1

    def _code(self, index: Int[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Return the integer whose digits the levels are, the last one the fastest."""
        code = torch.zeros(len(index), dtype=torch.long, device=index.device)
        for digit, levels in zip(index.unbind(1), self.levels, strict=True):
            code = code * levels + digit
        return code

    def _assignment(self, position: Float[Tensor, "B L"], index: Int[Tensor, "B L"]) -> Float[Tensor, "B M"]:
        """Return the one-hot code with the gradient of the product of soft assignments to each number's levels."""
        soft = torch.ones(len(position), 1, device=position.device)
        for value, levels in zip(position.unbind(1), self.levels, strict=True):
            centres = (2 * torch.arange(levels, device=value.device) + 1) / levels - 1
            distance = (value[:, None] - centres) * levels / 2
            share = F.softmax(-SHARPNESS * distance.square(), 1)
            soft = (soft[:, :, None] * share[:, None, :]).flatten(1)
        hard = F.one_hot(self._code(index), self.n_codes).to(soft.dtype)
        return soft + (hard - soft).detach()

    def _lay_out(self, values: Float[Tensor, "B L"]) -> Features:
        """Return values as features."""
        cells = self.decode(values).view(len(values), size_of(self.shape)[0], -1)
        return from_positions(cells[:, :, self.get_buffer("groups")], self.shape)


class TaskBottleneck(CodedRelease):
    """Releases the guess of the target and nothing else: a fixed random picture per class.

    Args:
        shape: Shape of one sample's features.
        classes: Target classes, Y.
        width: Channels of the network that guesses.

    Attributes:
        latest: ``[B, Y]`` logits of the last training batch, for the objective of the same step.
    """

    kind: ClassVar[str] = "bottleneck"

    def __init__(self, shape: Sequence[int], classes: int, width: int = 64):
        super().__init__(shape=list(shape), classes=classes, width=width)
        self.shape, self.n_codes = tuple(shape), classes
        self.trunk = TRUNKS["conv"](shape, width)
        self.guess = nn.Linear(width, classes)
        self.register_buffer("pictures", torch.rand(classes, *shape))
        self.latest: Tensor | None = None

    def forward(self, features: Features) -> Features:
        """Return the picture of the guessed class, in the features' type."""
        with torch.autocast(features.device.type, enabled=False):
            logits = self.guess(self.trunk(features.float()))
            self.latest = logits if self.training else None
            return self.get_buffer("pictures")[logits.argmax(1)].to(features.dtype)

    @torch.no_grad()
    def codes(self, features: Features) -> Labels:
        """Return the guessed class, 0 to Y − 1."""
        with torch.autocast(features.device.type, enabled=False):
            return self.guess(self.trunk(features.float())).argmax(1)

    def table(self) -> Features:
        """Return the picture of each class."""
        return self.get_buffer("pictures")


def check_levels(levels: Sequence[int]) -> None:
    """Raise ConfigError unless there are levels, each at least 2."""
    problems = Problems(ConfigError)
    if not levels:
        problems.add(expected("method.code.levels", "at least one number of levels", list(levels)))
    for count in levels:
        if count < 2:
            problems.add(expected("method.code.levels", "integers of at least 2", count, "Leave a single level out."))
    problems.raise_if_any()


def _centres(levels: Sequence[int]) -> Float[Tensor, "M L"]:
    """Return the middle of the bins of each code, in the order of the codes."""
    axes = [(2 * torch.arange(count) + 1) / count - 1 for count in levels]
    return torch.cartesian_prod(*axes).view(-1, len(levels))


__all__ = ["CELLS", "Quantiser", "TaskBottleneck", "check_levels"]
