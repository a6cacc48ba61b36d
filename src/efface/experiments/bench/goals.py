"""What was hoped for beside what was measured: a page over the results of all benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """A figure that a benchmark gives, and what it should be.

    Attributes:
        bench: Name of the benchmark.
        about: What the figure is.
        wanted: What it should be.
        at_least: Whether larger is better.
        read: Finds the figure in the benchmark's result; KeyError where it is not there.
    """

    bench: str
    about: str
    wanted: float
    at_least: bool
    read: Callable[[Result], float]

    def met(self, value: float) -> bool:
        """Whether a figure is as good as hoped."""
        return value >= self.wanted if self.at_least else value <= self.wanted


def _in(section: str, name: str) -> Callable[[Result], float]:
    return lambda result: float(result[section][name])


def _rows(column: str, pick: Callable[[list[float]], float], **wanted: object) -> Callable[[Result], float]:
    """Pick from a column of the rows that have these values; a tuple allows several."""

    def read(result: Result) -> float:
        values = [float(row[column]) for row in result["rows"] if _has(row, wanted)]
        if not values:
            raise KeyError(column)
        return pick(values)

    return read


def _has(row: Result, wanted: Mapping[str, object]) -> bool:
    return all(row[name] in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items())


def _resident(result: Result) -> float:
    sizes = [row["peak resident, MiB"] for row in sorted(result["rows"], key=lambda row: row["images"])]
    return float(sizes[-1] / sizes[0])


def _memory(about: str, model: str, wanted: float) -> tuple[Goal, Goal]:
    """The best cut into two: against end to end with the same losses, and against the network alone."""
    alone = _rows("saving against plain", max, model=model, blocks=2)
    return (
        Goal("memory", f"saving of {about}", wanted, True, _in("saving", model)),
        Goal("memory", f"saving of {about}, against the network alone without auxiliary losses", wanted, True, alone),
    )


def _epochs(about: str, model: str, wanted: float) -> Iterator[Goal]:
    """The fastest executor at the batch that suits the device, and at that of the other goals; and with every head."""
    blockwise = ("local", "streams", "graphs")
    for batch, variants, auxiliary in (
        (1024, blockwise, "a target head as auxiliary network"),
        (128, blockwise, "a target head as auxiliary network"),
        (1024, ("local_full",), "with decoder, target head and removal heads"),
    ):
        read = _rows("s an epoch", min, model=model, batch=batch, variant=variants)
        yield Goal("gpu", f"seconds of an epoch, {about}, batch {batch}, {auxiliary}", wanted, False, read)


GOALS = (
    Goal("step", "tuned end to end against the plain loop, ×", 3.0, True, _in("ratios", "tuned_vs_plain")),
    Goal("step", "share of the matrix product's rate, tuned", 0.8, True, _in("peak", "share")),
    Goal("step", "pipelined against one thread, ×", 1.7, True, _in("ratios", "pipelined_vs_one_thread")),
    Goal("step", "pipelined against all threads, ×", 1.0, True, _in("ratios", "pipelined_vs_two_threads")),
    Goal("step", "the same with a core held, ×", 5.0, True, _in("ratios", "pipelined_vs_two_threads_core_held")),
    Goal("step", "local against end to end, ×", 0.97, True, _in("ratios", "local_vs_end_to_end")),
    *_memory("ResNet-18", "resnet18", 0.31),
    *_memory("ResNet-34", "resnet34", 0.36),
    *_memory("ResNet-50", "resnet50", 0.38),
    Goal("data", "reading's share of a step", 0.05, False, _in("ratios", "reading_share_of_step")),
    *(
        Goal("audit", f"the audit's share of training, {about}", 0.25, False, _in("ratios", f"audit_share_{preset}"))
        for about, preset in (
            ("drawn faces", "toyfaces-smiling-glasses"),
            ("UTKFace", "utkface-gender-race"),
            ("CelebA", "celeba-smiling-male"),
        )
    ),
    Goal(
        "scale",
        "time per image, largest against smallest set, ×",
        1.1,
        False,
        _in("ratios", "seconds_per_image_largest_vs_smallest"),
    ),
    Goal(
        "scale",
        "anonymous memory of the process, largest against smallest set, ×",
        1.1,
        False,
        _in("ratios", "anonymous_memory_largest_vs_smallest"),
    ),
    Goal("scale", "resident memory, pages of the file that happen to be in memory included, ×", 1.1, False, _resident),
    *_epochs("ResNet-18", "resnet18", 1.0),
    *_epochs("ResNet-34", "resnet34", 2.0),
    *_epochs("ResNet-50", "resnet50", 3.5),
)


def overview(results: Mapping[str, Result]) -> str:
    """Return a page: every goal that a result says something of, then where each result was made.

    Args:
        results: As ``run_bench`` returns them, by the names of their files; of two with a figure, the later counts.
    """
    lines = ["# Benchmarks", "", "| bench | figure | goal | measured | |", "|---|---|---|---|---|"]
    for goal, value, result in _measured(list(results.values())):
        sign, verdict = "≥" if goal.at_least else "≤", "met" if goal.met(value) else "not met"
        if not result.get("goal_size"):
            verdict = "of another size"
        lines.append(f"| {goal.bench} | {goal.about} | {sign} {goal.wanted:g} | {value:.3g} | {verdict} |")
    lines += ["", *(_origin(name, result) for name, result in results.items())]
    return "\n".join(lines) + "\n"


def _measured(results: Sequence[Result]) -> Iterator[tuple[Goal, float, Result]]:
    for goal in GOALS:
        for result in reversed([one for one in results if one["bench"] == goal.bench]):
            try:
                yield goal, goal.read(result), result
            except KeyError:  # not measured, or of other networks
                continue
            break


def _origin(name: str, result: Result) -> str:
    machine = result["machine"]
    disturbed = sum(
        entry.get("disturbed", 0) for entry in (*result.get("variants", {}).values(), *result.get("rows", []))
    )
    return (
        f"- [{name}]({name}.md): {machine['started'][:10]}, {machine['hardware']['cpu']}, {machine['cores_used']} "
        f"core(s), accelerator {machine['hardware']['accelerator']}, torch {machine['versions']['torch']}; "
        f"{int(disturbed)} disturbed sample(s): `{machine['command']}`"
    )


__all__ = ["GOALS", "Goal", "overview"]
