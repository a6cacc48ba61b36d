"""Models: the zoo, cutting at named layers into blocks, and what they cost."""

from efface.models.block import Block
from efface.models.cost import count_flops, count_parameters
from efface.models.points import CutPoint, cut_points
from efface.models.split import SplitModel, split
from efface.models.zoo import build, list_models

__all__ = [
    "Block",
    "CutPoint",
    "SplitModel",
    "build",
    "count_flops",
    "count_parameters",
    "cut_points",
    "list_models",
    "split",
]
