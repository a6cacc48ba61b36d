"""The weights of the objective, and their algebra: what α, β, γ of the paper mean, and what a choice drops or keeps.

    −input_weight·I(h;x) − target_weight·I(h;y) + removal_weight·I(h;z)          is minimised, in nats per image.

The paper (equation 3) writes −λ3·I(h;z) with λ3 = α(β−γ) and "β ≥ γ", so that minimising it *raises* I(h;z). Here the
removal weight is α(γ−β), a penalty where γ > β. docs/theory.md proves the rules below.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import InitVar, dataclass
from typing import Any, NamedTuple

from efface.errors import ConfigError, Problems, expected


class RemovalSignWarning(UserWarning):
    """These weights don't penalise what h tells of the attribute, or reward it."""


class AlphaBetaGamma(NamedTuple):
    """The paper's parametrisation: overall scale, weight on other information r, weight on the attribute z."""

    alpha: float
    beta: float
    gamma: float


@dataclass(frozen=True)
class ObjectiveWeights:
    """Weights of I(h;x), I(h;y) and I(h;z).

    Attributes:
        input_weight: λ1, on I(h;x); at least 0.
        target_weight: λ2, on I(h;y); at least 0.
        removal_weight: What I(h;z) is penalised by, −λ3 of the paper's equation 3; at least 0, except from
            :meth:`from_alpha_beta_gamma` with γ < β, which is the paper's print and raises I(h;z).

    Raises:
        ConfigError: A weight is negative or not finite; all problems at once.

    Example:
        >>> weights = ObjectiveWeights(input_weight=1.0, target_weight=1.0, removal_weight=1.5)
        >>> weights.drops_attribute, weights.keeps_target_when_attribute_determines_it
        (True, True)
    """

    input_weight: float
    target_weight: float
    removal_weight: float
    as_printed: InitVar[bool] = False
    """Let the removal weight be negative; :meth:`from_alpha_beta_gamma` alone sets it."""

    def __post_init__(self, as_printed: bool) -> None:
        problems = Problems(ConfigError)
        for name in ("input_weight", "target_weight", "removal_weight"):
            value = getattr(self, name)
            negative = value < 0 and not (as_printed and name == "removal_weight")
            if negative or not math.isfinite(value):
                problems.add(expected(name, "a finite number of at least 0", value))
        problems.raise_if_any()

    @classmethod
    def from_alpha_beta_gamma(cls, alpha: float, beta: float, gamma: float) -> ObjectiveWeights:
        """Return (α(1−β), αβ, α(γ−β)): equation 3 of the paper, with the sign of its last weight turned.

        Args:
            alpha: Overall scale, above 0.
            beta: Weight on information that is neither y nor z, in [0, 1].
            gamma: Weight on the attribute, at least 0. Above β it is penalised; above 1 it is dropped.

        Warns:
            RemovalSignWarning: γ ≤ β, as the paper prints it: minimising would raise I(h;z), or leave it alone.

        Raises:
            ConfigError: A value out of its range; all problems at once.

        Example:
            >>> ObjectiveWeights.from_alpha_beta_gamma(alpha=2.0, beta=0.25, gamma=1.25)
            ObjectiveWeights(input_weight=1.5, target_weight=0.5, removal_weight=2.0)
        """
        _check_ranges(alpha, beta, gamma)
        if gamma <= beta:
            effect = "raises I(h;z), the opposite of unlearning" if gamma < beta else "ignores I(h;z)"
            warnings.warn(
                f"gamma={gamma} is not above beta={beta}, so minimising the objective {effect}. "
                f"Choose gamma > beta; gamma > 1 to drop the attribute.",
                RemovalSignWarning,
                stacklevel=2,
            )
        return cls(alpha * (1 - beta), alpha * beta, alpha * (gamma - beta), as_printed=True)

    def to_alpha_beta_gamma(self) -> AlphaBetaGamma:
        """Return the paper's α, β, γ: the inverse of :meth:`from_alpha_beta_gamma`.

        Raises:
            ConfigError: Both the input and the target weight are 0; then β is not defined.
        """
        alpha = self.input_weight + self.target_weight
        if alpha == 0:
            raise ConfigError(expected("input_weight + target_weight", "above 0", 0.0, "Without it β has no value."))
        beta = self.target_weight / alpha
        return AlphaBetaGamma(alpha, beta, self.removal_weight / alpha + beta)

    def objective(self, input_information: Any, target_information: Any, removal_information: Any) -> Any:
        """Return −λ1·I(h;x) − λ2·I(h;y) + removal·I(h;z), of floats, arrays or tensors in nats.

        The conditional variant puts I(h;x|z) and I(h;z|y) in the first and last place.
        """
        kept = self.input_weight * input_information + self.target_weight * target_information
        return self.removal_weight * removal_information - kept

    @property
    def drops_attribute(self) -> bool:
        """Whether every optimum of the marginal objective has I(h;z) = 0, for z independent of y.

        The phase rule, removal_weight > input_weight: I(h;x) counts z as well (docs/theory.md, claim 2). It is proved
        for one attribute. The conditional variant needs no more than removal_weight > 0.
        """
        return self.removal_weight > self.input_weight

    @property
    def keeps_target_when_attribute_determines_it(self) -> bool:
        """Whether every optimum of the marginal objective keeps all of y where z determines y (class and superclass).

        Then I(h;z) = I(h;y) + I(h;z|y), and y is paid for unless removal_weight < input_weight + target_weight. With
        several such attributes it is the sum of their removal weights that counts.
        """
        return self.removal_weight < self.input_weight + self.target_weight

    @property
    def window_nonempty(self) -> bool:
        """Whether some removal weight drops z beyond y and keeps y, where z determines y.

        The window is input_weight < removal_weight < input_weight + target_weight: empty for target_weight = 0.
        """
        return self.target_weight > 0


def _check_ranges(alpha: float, beta: float, gamma: float) -> None:
    problems = Problems(ConfigError)
    if not (math.isfinite(alpha) and alpha > 0):
        problems.add(expected("alpha", "a finite number larger than 0", alpha))
    if not 0 <= beta <= 1:
        problems.add(expected("beta", "a fraction from 0 to 1", beta))
    if not (math.isfinite(gamma) and gamma >= 0):
        problems.add(expected("gamma", "a finite number of at least 0", gamma))
    problems.raise_if_any()


__all__ = ["AlphaBetaGamma", "ObjectiveWeights", "RemovalSignWarning"]
