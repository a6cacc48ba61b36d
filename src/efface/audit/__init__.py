"""The audit: attackers trained afresh on released features, floors, intervals and verdicts."""

from efface.audit.attackers import ATTACKERS, Attacker, Budget, FeatureView, FittedAttacker, build_attacker, register
from efface.audit.audit import audit
from efface.audit.features import FeatureSet, extract
from efface.audit.result import AuditResult
from efface.audit.threat import Threat

__all__ = [
    "ATTACKERS",
    "Attacker",
    "AuditResult",
    "Budget",
    "FeatureSet",
    "FeatureView",
    "FittedAttacker",
    "Threat",
    "audit",
    "build_attacker",
    "extract",
    "register",
]
