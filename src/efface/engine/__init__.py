"""The engine: schedules, the loop, checkpoints, devices, seeds. It names no method."""

from efface.engine.fit import fit
from efface.engine.job import History, Job
from efface.engine.stages import Part

__all__ = ["History", "Job", "Part", "fit"]
