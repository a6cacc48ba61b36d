"""Benchmarks: variants that alternate in one run, on a machine that is watched, written as JSON and Markdown."""

from efface.experiments.bench.registry import BENCHES, run_bench

__all__ = ["BENCHES", "run_bench"]
