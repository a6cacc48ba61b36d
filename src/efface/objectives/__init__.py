"""Objectives: the λ algebra, the detachment loss and its adversaries. They return losses and never call backward."""

from efface.objectives.detachment import ClassifierObjective, DetachmentObjective, SilentObjective
from efface.objectives.removal import RIDGE, RemovalHeads
from efface.objectives.terms import Terms
from efface.objectives.weights import ObjectiveWeights

__all__ = [
    "RIDGE",
    "ClassifierObjective",
    "DetachmentObjective",
    "ObjectiveWeights",
    "RemovalHeads",
    "SilentObjective",
    "Terms",
]
