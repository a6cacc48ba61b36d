"""The engine: schedules, the loop, checkpoints, devices, seeds. It names no method."""

from efface.engine.fit import History, Job, fit
from efface.engine.stages import Part

__all__ = ["History", "Job", "Part", "fit"]
