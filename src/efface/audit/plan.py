"""How strong an audit is: which attackers, how often, and what else is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efface.audit.attackers import ATTACKERS, Attacker, build_attacker
from efface.config import AuditConfig
from efface.errors import AuditError, Problems

DEFAULT = ("resnet18", "mlp", "linear", "least-squares")
"""Attackers of the suite ``custom``, unless others are named."""
SEEDS = {"full": 3}
"""How often a suite trains each attacker; others: once."""
EPOCHS = {"quick": 6, "standard": 6}
"""Most epochs of an attacker, where ``epochs`` is not given; others: as ``AuditConfig`` says."""
BEYOND = {
    "custom": ("fairness", "numbers"),
    "quick": ("fairness", "numbers"),
    "standard": ("fairness", "selectivity", "numbers", "training_people"),
    "full": ("fairness", "selectivity", "numbers", "training_people", "intersections", "recovery", "learning_curve"),
}
"""What a suite looks at beside the attackers' figures."""


@dataclass(frozen=True)
class Plan:
    """What an audit does.

    Attributes:
        suite: Its name.
        attackers: Fresh ones.
        seeds: How often each is trained.
        beyond: What else is looked at.
        layers: Layers of the layer map, ``all``, or nothing.
        epochs: Most epochs of an attacker.
    """

    suite: str
    attackers: tuple[Attacker, ...]
    seeds: int
    beyond: tuple[str, ...]
    layers: str | tuple[str, ...]
    epochs: int

    @property
    def reads_drawings(self) -> bool:
        """Whether attributes are read off the decoders' drawings."""
        return "recovery" in self.beyond

    @classmethod
    def of(cls, config: AuditConfig, attackers: Sequence[Attacker] | None = None) -> Plan:
        """Fill in what the configuration leaves to the suite.

        Args:
            config: Settings; those that are given win over the suite's.
            attackers: Attackers of the caller's own, in place of any that are named.

        Raises:
            AuditError: An attacker is unknown.
        """
        suite = "custom" if attackers is not None or config.attackers is not None else config.suite
        chosen = build_suite(names_of(config)) if attackers is None else list(attackers)
        layers = config.layers if config.layers is not None else ("all" if config.suite == "full" else ())
        beyond = BEYOND[config.suite] if config.beyond is None else config.beyond
        seeds = config.seeds or SEEDS.get(config.suite, 1)
        given = "epochs" in config.model_fields_set
        epochs = config.epochs if given else EPOCHS.get(config.suite, config.epochs)
        return cls(suite, tuple(chosen), seeds, tuple(beyond), layers, epochs)


def names_of(config: AuditConfig) -> tuple[str, ...]:
    """Return the attackers' names.

    Example:
        >>> names_of(AuditConfig()), names_of(AuditConfig(suite="quick", attackers=("mlp",)))
        (('resnet18', 'mlp', 'linear', 'least-squares'), ('mlp',))
    """
    if config.attackers is not None:
        return config.attackers
    return SUITES.get(config.suite, DEFAULT)


def build_suite(names: Sequence[str] | None) -> list[Attacker]:
    """Return attackers by name; None: the default ones.

    Raises:
        AuditError: Names are unknown; all are told at once.
    """
    problems, suite = Problems(AuditError), []
    for name in DEFAULT if names is None else names:
        try:
            suite.append(build_attacker(name))
        except AuditError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return suite


def suite_problems(suite: Sequence[Attacker]) -> list[str]:
    """Return what is wrong with a suite: nobody in it, or two of a name."""
    names = [attacker.name for attacker in suite]
    found = [] if suite else ["No attacker is given: nothing can be audited. Try `efface ls attackers`."]
    twice = sorted({name for name in names if names.count(name) > 1})
    return found + [f"Attacker {name!r} is given more than once; give each its own name." for name in twice]


SUITES: dict[str, tuple[str, ...]] = {
    "quick": ("linear", "least-squares", "mlp"),
    "standard": ("conv", "mlp", "linear", "least-squares", "knn", "trees", "output", "ensemble"),
    "full": tuple(ATTACKERS),
}
"""Attackers of the suites with a name; why these: ``docs/attackers/suites.md``."""
