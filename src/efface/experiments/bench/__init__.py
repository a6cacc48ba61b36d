"""Benchmarks: variants that alternate in one run, on a machine that is watched, written as JSON and Markdown."""

from efface.experiments.bench.registry import BENCHES, run_bench, settings_of
from efface.experiments.bench.write import write_result

__all__ = ["BENCHES", "run_bench", "settings_of", "write_result"]
