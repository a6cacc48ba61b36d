"""Attackers, one file each: ``ATTACKERS`` maps the names of settings and reports to their classes."""

from __future__ import annotations

from efface.audit.attackers.base import Attacker, Budget, FeatureView, FittedAttacker
from efface.audit.attackers.conv import ConvAttacker, RawConvAttacker
from efface.audit.attackers.ensemble import EnsembleAttacker
from efface.audit.attackers.knn import NeighbourAttacker
from efface.audit.attackers.least_squares import LeastSquaresAttacker
from efface.audit.attackers.linear import LinearAttacker, RawLinearAttacker
from efface.audit.attackers.mlp import PooledAttacker, RawPooledAttacker, SmallPooledAttacker, WidePooledAttacker
from efface.audit.attackers.output import OutputAttacker
from efface.audit.attackers.resnet import MixedResNetAttacker, ResNetAttacker
from efface.audit.attackers.tokens import TokenAttacker
from efface.audit.attackers.trees import TreeAttacker
from efface.errors import AuditError, did_you_mean, expected

ATTACKERS: dict[str, type[Attacker]] = {}


def register(attacker: type[Attacker]) -> type[Attacker]:
    """Make an attacker known by its name; also a class decorator.

    Raises:
        AuditError: The name is taken.
    """
    if attacker.name in ATTACKERS:
        raise AuditError(expected("name", "a name that no attacker has yet", attacker.name))
    ATTACKERS[attacker.name] = attacker
    return attacker


def build_attacker(name: str) -> Attacker:
    """Return a new attacker by name.

    Raises:
        AuditError: The name is unknown.

    Example:
        >>> build_attacker("linear").name
        'linear'
    """
    if name not in ATTACKERS:
        raise AuditError(f"Unknown attacker {name!r}. {did_you_mean(name, ATTACKERS)} Try `efface ls attackers`.")
    return ATTACKERS[name]()


def summaries() -> dict[str, str]:
    """Return what each attacker is, in a line, by name.

    Example:
        >>> summaries()["linear"]
        'Logistic regression; validation picks the penalty.'
    """
    return {name: (attacker.__doc__ or "").strip().split("\n")[0] for name, attacker in ATTACKERS.items()}


for _attacker in (
    ResNetAttacker,
    MixedResNetAttacker,
    ConvAttacker,
    RawConvAttacker,
    TokenAttacker,
    PooledAttacker,
    SmallPooledAttacker,
    WidePooledAttacker,
    RawPooledAttacker,
    LinearAttacker,
    RawLinearAttacker,
    LeastSquaresAttacker,
    NeighbourAttacker,
    TreeAttacker,
    OutputAttacker,
    EnsembleAttacker,
):
    register(_attacker)

__all__ = [
    "ATTACKERS",
    "Attacker",
    "Budget",
    "FeatureView",
    "FittedAttacker",
    "build_attacker",
    "register",
    "summaries",
]
