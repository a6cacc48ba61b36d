"""The audit: attackers trained afresh on released features, floors, intervals and verdicts.

The package can be called: ``efface.audit(model, data, at=...)`` is ``efface.audit.audit(...)``, whichever was imported
first, the package or the function.
"""

import sys
from types import ModuleType
from typing import Any

from efface.audit.attackers import ATTACKERS, Attacker, Budget, FeatureView, FittedAttacker, build_attacker, register
from efface.audit.audit import audit
from efface.audit.certificate import Certificate, certify
from efface.audit.embeddings import audit_embeddings
from efface.audit.features import FeatureSet, extract
from efface.audit.result import AuditResult
from efface.audit.threat import Threat

__all__ = [
    "ATTACKERS",
    "Attacker",
    "AuditResult",
    "Budget",
    "Certificate",
    "FeatureSet",
    "FeatureView",
    "FittedAttacker",
    "Threat",
    "audit",
    "audit_embeddings",
    "build_attacker",
    "certify",
    "extract",
    "register",
]


class _CallablePackage(ModuleType):
    """``efface.audit`` is this package and, by this class, the function of the same name too."""

    def __call__(self, *arguments: Any, **settings: Any) -> AuditResult:
        return audit(*arguments, **settings)


sys.modules[__name__].__class__ = _CallablePackage
