"""What every method is: a name, a line about it, and ``fit``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.dataset import AttributeDataset
from efface.engine import History, Job
from efface.errors import ConfigError, expected


@dataclass(frozen=True)
class Auxiliary:
    """Cost of the auxiliary network, beside the model's (section 3.2: "limited").

    Attributes:
        parameters: Trainable numbers of decoder, target head and removal heads.
        share_parameters: As a fraction of the model's.
        flops: Floating-point operations of one forward pass for one image.
        share_flops: As a fraction of the model's forward pass.
    """

    parameters: int
    share_parameters: float
    flops: int
    share_flops: float


@dataclass(frozen=True)
class UnlearnedModel:
    """The result of a method: the model the user gave, trained in place.

    Attributes:
        model: The same object and architecture, under its own state_dict keys; ``LAYER.release.…`` are added where the
            method puts a layer at the cut.
        at: Layer(s) whose output is released.
        method: Name of the method.
        history: Seconds, steps and logged figures.
        auxiliary: Cost of the auxiliary network; None where a method has none.
        data: What the model is meant for, where the method changed the images; None: the data as they were.
    """

    model: nn.Module
    at: tuple[str, ...]
    method: str
    history: History
    auxiliary: Auxiliary | None = None
    data: AttributeDataset | None = None


class Method(ABC):
    """A way to unlearn attributes. Subclasses are final; one file and one card each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    suggested: ClassVar[Mapping[str, object]] = {}
    """Settings of `method` that suit it where the defaults, made for detachment, do not; a comparison applies them."""

    preserves: ClassVar[bool] = False
    """Whether it keeps the columns that `method.preserve` names."""

    sections: ClassVar[tuple[str, ...]] = ()
    """Sections of `method` that it reads; of the others, such as another method's `code`, nothing depends."""

    def check(self, config: MethodConfig, data: AttributeDataset) -> None:
        """Raise ConfigError for settings that don't fit the method or the data, before any time is spent."""
        del data
        if config.preserve and not self.preserves:
            hint = "It keeps no columns on request. Set it to [], or try `detachment`, `narrow` or `quantised`."
            raise ConfigError(expected("method.preserve", f"empty for `{self.name}`", list(config.preserve), hint))

    @abstractmethod
    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Train ``model`` in place, from the weights it has, and return it."""


class Registry:
    """Names of methods, for the command line and presets; a name stands for one class only.

    Example:
        >>> Registry([]).names()
        []
    """

    def __init__(self, methods: Sequence[type[Method]]):
        self._methods: dict[str, type[Method]] = {}
        for method in methods:
            if method.name in self._methods:
                raise ValueError(f"Two methods are named {method.name!r}.")
            self._methods[method.name] = method

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._methods)

    def summaries(self) -> Mapping[str, str]:
        """Return the line about each method."""
        return {name: self._methods[name].summary for name in self.names()}

    def get(self, name: str) -> Method | None:
        """Return a method by name, or None."""
        method = self._methods.get(name)
        return method() if method is not None else None
