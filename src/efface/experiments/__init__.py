"""Experiments: the runner, the run folder and the presets."""

from efface.experiments.folder import RunFolder
from efface.experiments.presets import find_config, presets
from efface.experiments.runner import RunResult, audit_again, run

__all__ = ["RunFolder", "RunResult", "audit_again", "find_config", "presets", "run"]
