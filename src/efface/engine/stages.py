"""A stage: one block with its loss, its adversary and the optimisers of both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from efface.config import EngineConfig
from efface.engine.devices import distribute
from efface.engine.optim import build_optimizer, portable_state, set_rate
from efface.heads.release import Release
from efface.shapes import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Part:
    """What a method hands to the engine for one block.

    Attributes:
        block: The part of the network; layers that were put at the cut are told how far training is.
        objective: ``(features, batch, progress) -> Terms``; its own parameters learn with the block.
        adversary: ``(detached features, batch) -> Terms``, learns on its own, first; between steps ``settle(batches)``
            and ``restart(turn)``.
        adversary_lr: Peak learning rate of the adversary.
        inner_steps: Steps of the adversary per step of the block.
        restart_every: Epochs after which a part of the adversary starts afresh; 0: never.
    """

    block: nn.Module
    objective: nn.Module
    adversary: nn.Module | None = None
    adversary_lr: float = 1e-3
    inner_steps: int = 1
    restart_every: int = 0


class Stage:
    """A part with its optimisers, ready to step.

    Args:
        part: Block, objective and adversary.
        fabric: Device, precision and processes.
        config: Optimiser and rates.
    """

    def __init__(self, part: Part, fabric: Fabric, config: EngineConfig):
        self.part = part
        self.config = config
        self._batches: int | None = None
        """How many batches the adversary has been given, where that has not been told to it yet."""
        self._releases = [layer for layer in part.block.modules() if isinstance(layer, Release)]
        modules = [part.block, part.objective]
        self.optimizer = build_optimizer(modules, config, config.lr)
        adversary = [part.adversary] if part.adversary is not None else []
        self.adversary_optimizer = build_optimizer(adversary, config, part.adversary_lr)
        self.wrap(lambda module: distribute(fabric, module))

    def wrap(self, wrapper: Callable[[nn.Module], nn.Module]) -> None:
        """Let ``wrapper`` stand between the steps and block, objective and adversary: data-parallel training."""
        self.block: nn.Module = wrapper(self.part.block)
        self.objective: nn.Module = wrapper(self.part.objective)
        self.adversary = wrapper(self.part.adversary) if self.part.adversary is not None else None

    @property
    def modules(self) -> list[nn.Module]:
        """Block, objective and adversary, unwrapped."""
        return [m for m in (self.part.block, self.part.objective, self.part.adversary) if m is not None]

    def optimizers(self) -> list[Optimizer]:
        """The optimisers that exist."""
        return [o for o in (self.optimizer, self.adversary_optimizer) if o is not None]

    def train(self) -> None:
        """Switch every module to training mode."""
        for module in self.modules:
            module.train()

    def begin_step(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Set the learning rates; restart a part of the adversary when its turn has come."""
        # The adversary's rate stays up: as the block slows down, the adversary catches up with it.
        if self.optimizer is not None:
            set_rate(self.optimizer, step, steps, self.config.lr_warmup)
        self._batches = step
        turn = self.turn(step, steps, steps_per_epoch)
        if turn is None or self.part.adversary is None:
            return
        assert self.adversary_optimizer is not None
        _wait()  # the head is renewed on this stream, and read on the block's
        for parameter in self.part.adversary.restart(turn):  # type: ignore[operator]
            self.adversary_optimizer.state.pop(parameter, None)
        _wait()

    def advance(self, progress: Progress) -> None:
        """Tell the layers that were put at the cut how far training is: at the beginning of the block's work."""
        for layer in self._releases:
            layer.advance(progress)

    def settle(self) -> None:
        """Let the adversary solve what it solves between steps: once per step, where the block's work is done."""
        if self._batches is not None and self.part.adversary is not None:
            self.part.adversary.settle(self._batches)  # type: ignore[operator]
        self._batches = None

    def rehearse_step(self, step: int, steps: int, steps_per_epoch: int) -> None:
        """Draw the random numbers that ``begin_step`` would draw, and change nothing.

        A process that trains one block of several thus stays in step with the one stream of random numbers.
        """
        turn = self.turn(step, steps, steps_per_epoch)
        if turn is not None and self.part.adversary is not None:
            adversary = self.part.adversary
            state = copy.deepcopy(adversary.state_dict())
            adversary.restart(turn)  # type: ignore[operator]
            adversary.load_state_dict(state)

    def turn(self, step: int, steps: int, steps_per_epoch: int) -> int | None:
        """Number of the restart that is due at a step; None: none is."""
        period = self.part.restart_every * steps_per_epoch
        # No restart in the last period: a fresh head would not learn any more.
        if not period or not step or step % period or step + period > steps:
            return None
        return step // period - 1

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs of this stage."""
        return {
            "modules": [module.state_dict() for module in self.modules],
            "optimizers": [portable_state(optimizer) for optimizer in self.optimizers()],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.load_modules(state)
        for optimizer, values in zip(self.optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(values)

    def load_modules(self, state: dict[str, Any]) -> None:
        """Restore block, objective and adversary alone: all that a process needs which does not train them."""
        for module, values in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(values)


def _wait() -> None:
    """Wait for every stream of every GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.synchronize(number)
