"""Methods, one file each: they unlearn; they never see an attacker."""

from efface.heads.mounting import mounted, restore
from efface.methods.base import Auxiliary, Method, Registry, UnlearnedModel
from efface.methods.detachment import Detachment
from efface.methods.masked_retrain import released_data
from efface.methods.original import Original
from efface.methods.unlearn import METHODS, find_method, unlearn

__all__ = [
    "METHODS",
    "Auxiliary",
    "Detachment",
    "Method",
    "Original",
    "Registry",
    "UnlearnedModel",
    "find_method",
    "mounted",
    "released_data",
    "restore",
    "unlearn",
]
