"""Many perceptrons on the same people's features, trained side by side as one wide network.

A perceptron of 64 hidden units is too small to keep a processor busy: most of its time goes into starting operations.
Where dozens of columns are probed on the same people, their perceptrons take the same batches, so that their layers can
be computed at once: no unit of one sees a unit of another, and every one learns as it would alone, but for the draws of
dropout (and for the order of the people, where columns have different numbers of classes).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from efface.audit.attackers.base import Budget, FeatureView, fit_temperature
from efface.audit.attackers.mlp import PooledAttacker
from efface.audit.attackers.training import Best, FittedNetwork, NetworkAttacker
from efface.shapes import Features

PARTS = {"first": "layers.1", "norm": "layers.2", "second": "layers.5", "second_norm": "layers.6", "last": "layers.9"}
"""Where a perceptron has what is one layer here."""


def fit_together(
    attacker: PooledAttacker, train: Sequence[FeatureView], validation: Sequence[FeatureView], budget: Budget
) -> list[FittedNetwork]:
    """Fit the same attacker to several columns.

    Args:
        attacker: A perceptron.
        train: A view for each column, of the same rows.
        validation: The same.
        budget: For each of them.
    """
    many = _SideBySide(attacker, tuple(view.classes for view in train), budget.seed)
    people, judges = _Columns.of(train), _Columns.of(validation)
    with torch.random.fork_rng(devices=[budget.device] if budget.device.type == "cuda" else []):
        network = many.build(train[0].shape, 0).to(budget.device)
        best, warning = many._train(network, people, judges, budget)
    assert isinstance(best, _Bests)
    fitted = []
    for number, (one, view) in enumerate(zip(best.each, validation, strict=True)):
        alone = attacker.build(view.shape, view.classes).to(budget.device)
        alone.load_state_dict(network.column(number, one.state, alone.state_dict()))
        found = FittedNetwork(attacker, alone, one, budget.device, warning)
        found.temperature = fit_temperature(found.predict_logits(view), view.labels)
        fitted.append(found)
    return fitted


class Perceptrons(nn.Module):
    """K perceptrons on one input: ``[B, F]`` to ``[B, A, K]``, with −∞ for classes that a column does not have.

    Args:
        states: Weights of fresh ones (``Perceptron.state_dict``), of one width.
        classes: Of each.
        given: What the input passes first: the same for all.
        dropout: Share of hidden units left out.
    """

    def __init__(self, states: Sequence[dict[str, Tensor]], classes: Sequence[int], given: nn.Module, dropout: float):
        super().__init__()
        self.classes, self.width, self.given = tuple(classes), len(states[0][f"{PARTS['first']}.weight"]), given
        self.first = nn.Parameter(torch.cat([state[f"{PARTS['first']}.weight"] for state in states]))
        self.second = nn.Parameter(torch.stack([state[f"{PARTS['second']}.weight"] for state in states]))
        self.norm, self.second_norm = (nn.BatchNorm1d(len(self.first)) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        most = max(classes)
        last, bias = torch.zeros(len(states), most, self.width), torch.zeros(len(states), most)
        for number, (state, count) in enumerate(zip(states, classes, strict=True)):
            last[number, :count], bias[number, :count] = (state[f"{PARTS['last']}.{n}"] for n in ("weight", "bias"))
        self.last, self.bias = nn.Parameter(last), nn.Parameter(bias)
        absent = torch.arange(most)[:, None] >= torch.tensor(self.classes)[None]
        self.register_buffer("absent", absent, persistent=False)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B A K"]:
        """Return logits, column by column."""
        hidden = self.dropout(F.gelu(self.norm(F.linear(self.given(features), self.first))))
        hidden = self._apart(hidden) @ self.second.transpose(1, 2)
        hidden = self.dropout(F.gelu(self.second_norm(hidden.transpose(0, 1).flatten(1))))
        logits = torch.baddbmm(self.bias[:, None], self._apart(hidden), self.last.transpose(1, 2))
        return logits.permute(1, 2, 0).masked_fill(self.get_buffer("absent"), -torch.inf)

    def _apart(self, hidden: Float[Tensor, "B U"]) -> Float[Tensor, "K B W"]:
        return hidden.view(len(hidden), -1, self.width).transpose(0, 1)

    def column(self, number: int, state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the state of one perceptron, out of the state of all; steps that were counted stay as in ``like``."""
        units = slice(number * self.width, (number + 1) * self.width)
        classes = slice(self.classes[number])
        found = like | {f"layers.0.{name}": state[f"given.{name}"] for name in self.given.state_dict()}
        for norm in ("norm", "second_norm"):
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"{PARTS[norm]}.{name}"] = state[f"{norm}.{name}"][units]
        return found | {
            f"{PARTS['first']}.weight": state["first"][units],
            f"{PARTS['second']}.weight": state["second"][number],
            f"{PARTS['last']}.weight": state["last"][number, classes],
            f"{PARTS['last']}.bias": state["bias"][number, classes],
        }


@dataclass(frozen=True)
class _Columns(FeatureView):
    """People's features, and several columns of theirs: ``[n, K]``."""

    labels: Int[Tensor, "n K"]

    @classmethod
    def of(cls, views: Sequence[FeatureView]) -> _Columns:  # type: ignore[override]
        """Put views of the same people together."""
        labels = torch.stack([one.labels for one in views], 1)
        return cls(views[0].source, views[0].rows, labels, max(one.classes for one in views))


class _SideBySide(NetworkAttacker):
    """The training of an attacker, of several columns at once; labels are ``[n, K]``."""

    def __init__(self, one: PooledAttacker, classes: tuple[int, ...], seed: int):
        self.one, self.classes, self.seed = one, classes, seed
        for setting in ("learning_rate", "weight_decay", "mixup", "noise", "mixed_precision", "scaling"):
            setattr(self, setting, getattr(one, setting))

    def build(self, shape: tuple[int, ...], classes: int) -> Perceptrons:
        """Return fresh perceptrons; each begins as it would alone with the seed."""
        alone = []
        for count in self.classes:
            torch.manual_seed(self.seed)
            alone.append(self.one.build(shape, count))
        states = [{name: value.detach() for name, value in one.state_dict().items()} for one in alone]
        given = alone[0].get_submodule("layers.0")
        return Perceptrons(states, self.classes, given, self.one.dropout)

    def inputs(self, view: FeatureView, people: Int[Tensor, " B"]) -> Features:
        """Return what the one attacker reads."""
        return self.one.inputs(view, people)

    def criterion(self, logits: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        """Return the sum over columns of the mean cross-entropy, in nats: the gradient that each has alone."""
        return F.cross_entropy(logits, labels, reduction="none").mean(0).sum()

    def begin(self, network: nn.Module, patience: int) -> Best:
        """Return where each column's best epoch is noted."""
        return _Bests(copy.deepcopy(network.state_dict()), patience, len(self.classes))


@dataclass(init=False)
class _Bests(Best):
    """The best epoch of each column; one that would have stopped alone is not judged any more."""

    def __init__(self, state: dict[str, Tensor], patience: int, columns: int):
        super().__init__(state)
        self.patience, self.each = patience, [Best(state) for _ in range(columns)]

    def update(self, epoch: int, state: dict[str, Tensor], logits: Tensor, labels: Tensor) -> None:
        """Note one epoch's figures on validation, column by column."""
        for number, one in enumerate(self.each):
            if epoch - 1 - one.improved < self.patience:
                one.update(epoch, state, logits[:, :, number], labels[:, number])
                self.improved = max(self.improved, one.improved)


__all__ = ["fit_together"]
