"""How attackers that are networks learn: AdamW, one cycle, averaged weights, validation picks the epoch.

What is read on validation, and kept, is the *average* of the weights over the last half epoch, with the statistics of
batch normalisation computed afresh for it. The running statistics of training lag behind weights that move fast: with
a weak signal the lag outweighs what was learned, validation reads noise, and training stops before it began.

*Accuracy* on validation picks the epoch (ties: cross-entropy), for accuracy is what the verdict is about. Training
stops early when neither accuracy nor cross-entropy has improved for half of the epochs, four at least. Bits need
calibrated probabilities, so one temperature is then fitted to the cross-entropy on validation; it changes no guess.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker, fit_temperature
from efface.audit.attackers.cost import network_seconds
from efface.engine.convolutions import small_maps_as_products
from efface.engine.devices import has_fast_bfloat16
from efface.shapes import Features, Labels, Logits

STEPS = 32
"""An epoch of a small data set is cut into at least so many steps, of 16 people at least."""
READ = 1024
MEMORY = 0.5
"""Epochs over which weights are averaged. Source: Polyak and Juditsky (1992), Izmailov et al. (2018)."""
SETTLE = 8
"""Batches of training people from which the statistics of batch normalisation are computed for averaged weights."""


class NetworkAttacker(Attacker):
    """An attacker that is a network; subclasses say which network, on what, and how fast.

    Attributes:
        learning_rate: Peak of the cycle.
        weight_decay: Of AdamW.
        mixup: Parameter of the Beta distribution of mixing weights; 0: no mixing. Source: Zhang et al. (2018).
        noise: Spread of Gaussian noise added to standardised inputs.
        mixed_precision: Whether to compute in bf16, where the hardware does; emulated, it takes ten times as long.
        scaling: ``standardised`` per channel, or ``raw``: one shift and scale for all channels.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    mixup: float = 0.0
    noise: float = 0.0
    mixed_precision: bool = True
    scaling: Literal["standardised", "raw"] = "standardised"

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return a fresh network from inputs to logits."""

    def inputs(self, view: FeatureView, people: Int[Tensor, " B"]) -> Features:
        """Return what the network reads of these people: their features, scaled."""
        return view.raw(people) if self.scaling == "raw" else view.standardised(people)

    def seconds(self, people: int, shape: tuple[int, ...], classes: int, epochs: int) -> float:
        """Return about how long a fit takes on one core; counts the network's multiplications."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = self.build(shape, classes)
            return network_seconds(network, self.blank(shape), people, epochs)

    def blank(self, shape: tuple[int, ...]) -> Features:
        """Return empty inputs of two people."""
        return torch.empty(2, *shape)

    def fit(self, train: FeatureView, validation: FeatureView, budget: Budget) -> FittedNetwork:
        """Train a fresh network and keep its best epoch."""
        with torch.random.fork_rng(devices=[budget.device] if budget.device.type == "cuda" else []):
            torch.manual_seed(budget.seed)
            network = self.build(train.shape, train.classes).to(budget.device)
            with small_maps_as_products(network):
                best, warning = self._train(network, train, validation, budget)
        network.load_state_dict(best.state)
        fitted = FittedNetwork(self, network, best, budget.device, warning)
        fitted.temperature = fit_temperature(fitted.predict_logits(validation), validation.labels)
        return fitted

    def _train(
        self, network: nn.Module, train: FeatureView, validation: FeatureView, budget: Budget
    ) -> tuple[Best, str | None]:
        optimizer = torch.optim.AdamW(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        size = batch_size(len(train), budget.batch_size)
        steps = len(train) // size
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(2.0, MEMORY * steps)))
        patience, step = max(4, (budget.epochs + 1) // 2), 0
        best = self.begin(network, patience)
        for epoch in range(1, budget.epochs + 1):
            network.train()
            for people in shuffled(len(train), size):
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * one_cycle(step / (steps * budget.epochs))
                if not self._step(network, optimizer, train, people, budget.device):
                    return best, f"training stopped in epoch {epoch}: the loss was not finite"
                average.update_parameters(network)
                step += 1
            self._settle(average.module, train, size, budget.device)
            logits = self.logits(average.module, validation, budget.device)
            best.update(epoch, copy.deepcopy(average.module.state_dict()), logits, validation.labels)
            budget.tick()
            if epoch - best.improved >= patience:
                break
        return best, None

    def _settle(self, network: nn.Module, train: FeatureView, size: int, device: torch.device) -> None:
        """Compute the statistics of batch normalisation anew; clean inputs, for these are what is attacked."""
        batches = itertools.islice(shuffled(len(train), size), SETTLE)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision and has_fast_bfloat16()):
            update_bn((self.inputs(train, people) for people in batches), network, device)

    def _step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: FeatureView,
        people: Int[Tensor, " B"],
        device: torch.device,
    ) -> bool:
        """Take one step; return False, and take none, where the loss is not finite."""
        loss = self._loss(network, train, people, device)
        if not torch.isfinite(loss):
            return False
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return True

    def _loss(
        self, network: nn.Module, train: FeatureView, people: Int[Tensor, " B"], device: torch.device
    ) -> Float[Tensor, ""]:
        inputs, labels = self.inputs(train, people).to(device), train.labels[people].to(device)
        if self.noise:
            inputs = inputs + self.noise * torch.randn_like(inputs)
        share, others = 1.0, labels
        if self.mixup:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            order = torch.randperm(len(inputs))
            inputs, others = torch.lerp(inputs[order], inputs, share), labels[order]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision and has_fast_bfloat16()):
            logits = network(inputs).float()
        return share * self.criterion(logits, labels) + (1 - share) * self.criterion(logits, others)

    def criterion(self, logits: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        """Return the loss of a batch: the mean cross-entropy, in nats."""
        return F.cross_entropy(logits, labels)

    def begin(self, network: nn.Module, patience: int) -> Best:
        """Return where the best epoch is noted; training ends after so many epochs without a better figure."""
        return Best(copy.deepcopy(network.state_dict()))

    @torch.no_grad()
    def logits(self, network: nn.Module, view: FeatureView, device: torch.device) -> Float[Tensor, "n A *K"]:
        """Return what the network says, on the CPU: logits."""
        network.eval()
        parts = []
        for people in torch.arange(len(view)).split(READ):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision and has_fast_bfloat16()):
                parts.append(network(self.inputs(view, people).to(device)).float().cpu())
        return torch.cat(parts)


@dataclass
class Best:
    """The best epoch so far.

    Attributes:
        state: Weights at that epoch.
        accuracy: On validation.
        loss: Cross-entropy on validation, nats.
        epoch: From 1; 0 before the first.
        lowest: Least cross-entropy of any epoch.
        improved: Last epoch in which either figure reached a new best.
    """

    state: dict[str, Tensor]
    accuracy: float = -1.0
    loss: float = math.inf
    epoch: int = 0
    lowest: float = math.inf
    improved: int = 0

    def update(self, epoch: int, state: dict[str, Tensor], logits: Logits, labels: Labels) -> None:
        """Note one epoch's figures on validation, and its weights, which nobody changes afterwards."""
        accuracy = float((logits.argmax(1) == labels).double().mean())
        loss = float(F.cross_entropy(logits, labels))
        if accuracy > self.accuracy or loss < self.lowest:
            self.improved = epoch
        self.lowest = min(self.lowest, loss)
        if (accuracy, -loss) > (self.accuracy, -self.loss):
            self.accuracy, self.loss, self.epoch = accuracy, loss, epoch
            self.state = state


class FittedNetwork(FittedAttacker):
    """A trained network, at its best epoch."""

    def __init__(
        self, attacker: NetworkAttacker, network: nn.Module, best: Best, device: torch.device, warning: str | None
    ):
        self.attacker, self.network, self.device, self.warning = attacker, network.eval(), device, warning
        self.epoch, self.validation_accuracy = best.epoch, max(best.accuracy, 0.0)
        self.temperature = 1.0

    def predict_logits(self, view: FeatureView) -> Logits:
        """Return calibrated logits, on the CPU."""
        return self.attacker.logits(self.network, view, self.device) / self.temperature


def batch_size(people: int, most: int) -> int:
    """Return how many people take part in a step; small data sets are cut into more steps.

    Example:
        >>> batch_size(16_000, 256), batch_size(1000, 256), batch_size(10, 256)
        (256, 31, 10)
    """
    return min(most, max(16, people // STEPS), people)


def shuffled(people: int, size: int) -> Iterator[Int[Tensor, " B"]]:
    """Yield full batches in a random order; the rest of the people wait for the next epoch."""
    order = torch.randperm(people)
    for start in range(0, people - size + 1, size):
        # Sorted rows make the reads from disk sequential.
        yield order[start : start + size].sort().values


def one_cycle(progress: float, warmup: float = 0.2) -> float:
    """Return the learning rate as a share of its peak: a linear rise, then a cosine to 0.

    Source: Smith and Topin (2019).

    Example:
        >>> one_cycle(0.2), round(one_cycle(1.0), 6)
        (1.0, 0.0)
    """
    if progress < warmup:
        return 0.05 + 0.95 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
