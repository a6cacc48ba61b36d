"""The paper's evaluation: its printed figures as data, the cells that measure the same, tables and figures of both."""

from efface.experiments.paper.reproduce import MAKERS, reproduce
from efface.experiments.paper.scales import SCALES

__all__ = ["MAKERS", "SCALES", "reproduce"]
