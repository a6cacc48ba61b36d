"""``local_parallel`` on the cores of one machine: a process per block, consecutive batches in flight.

The parent forks a process per block, which take parcels from ring to ring. It computes nothing but the validation
figures: it gathers figures and states, writes log and checkpoints as ``local`` would, and watches. If a process dies,
all end.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any

import torch

from efface.engine.forks import Failure, can_fork, fork, how_it_ended
from efface.engine.parallel import child
from efface.engine.parallel.parcels import buffer_sizes
from efface.engine.parallel.ring import Ring
from efface.engine.parallel.worker import BatchSource
from efface.engine.training import Training
from efface.errors import ConfigError, TrainingError

PATIENCE = 0.2
"""Seconds between two looks at the progress while no message comes."""


def run(training: Training) -> None:
    """Make all steps, each block in a process of its own.

    Raises:
        TrainingError: A process died, or the loss is not finite; no process is left.
        ConfigError: This system can't fork.
    """
    if not can_fork():
        needs = "a system that can fork, such as Linux, and a process that is no daemon of multiprocessing's"
        raise ConfigError(f"`engine.schedule=local_parallel` needs {needs}. Try `local`.")
    if training.ledger.step == training.ledger.plan.steps:
        return
    with _Team(training) as team, training.ledger.bar() as bar:
        gathering = _Gathering(training, len(team.processes))
        while team.working:
            for index, message in team.messages():
                gathering.take(index, message)
            bar.show(int(team.board.min()))
    training.ledger.step = training.ledger.plan.steps


class _Team:
    """The processes, their rings and their links; leaving the context ends every process."""

    def __init__(self, training: Training):
        self.training = training
        context = multiprocessing.get_context("fork")
        count = len(training.stages)
        rings = [Ring(context, size) for size in buffer_sizes(training)]
        board = torch.frombuffer(mmap.mmap(-1, 8 * count), dtype=torch.int64)
        self.board = board.fill_(training.ledger.step)
        self.lifeline = os.pipe()
        self.connections: list[Connection] = []
        self.processes: list[ForkProcess] = []
        self.working = set(range(count))
        try:
            for index in range(count):
                self._start(context, index, rings)
        except BaseException:
            self.end()
            raise

    def _start(self, context: ForkContext, index: int, rings: list[Ring]) -> None:
        ours, theirs = context.Pipe(duplex=False)
        self.connections.append(ours)
        links = child.Links(theirs, self.lifeline, self.board, torch.get_num_threads())
        source = partial(BatchSource, self.training) if index == 0 else partial(_same, rings[index - 1])
        sink = rings[index] if index < len(rings) else None
        args = self.training, index, source, sink, links
        self.processes.append(fork(context, child.main, args, f"efface-block-{index}"))
        theirs.close()

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Kill whoever still runs, and wait until all are gone."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
            process.close()
        for connection in self.connections:
            connection.close()
        for end in self.lifeline:
            os.close(end)

    def messages(self) -> Iterator[tuple[int, Any]]:
        """Wait for messages and yield those that came, with the number of the block; raise if a process died."""
        sources: dict[Any, int] = {}
        for index in self.working:
            sources[self.connections[index]] = sources[self.processes[index].sentinel] = index
        for index in sorted({sources[ready] for ready in wait(list(sources), PATIENCE)}):
            yield from self._of(index)

    def _of(self, index: int) -> Iterator[tuple[int, Any]]:
        """Yield what one process has sent."""
        dead = not self.processes[index].is_alive()  # looked up first: what it sent before, we can still read
        try:
            while self.connections[index].poll():
                message = self.connections[index].recv()
                if isinstance(message, Failure):
                    raise self._failed(index, message)
                if isinstance(message, child.Finished):
                    self.working.discard(index)
                    return
                yield index, message
        except (EOFError, OSError):
            dead = True
        if dead:
            raise self._died(index)

    def _failed(self, index: int, failure: Failure) -> Exception:
        """Return the error of a process."""
        return failure.error(
            lambda text: TrainingError(f"{self._where(index)} failed: {text}. The last checkpoint is intact.")
        )

    def _died(self, index: int) -> TrainingError:
        how, short = how_it_ended(self.processes[index])
        hint = " Was memory short? Try a smaller `engine.batch_size`." if short else ""
        return TrainingError(
            f"{self._where(index)} {how}. All its fellows were ended; the last checkpoint is intact, "
            f"go on with --resume.{hint}"
        )

    def _where(self, index: int) -> str:
        done, plan = int(self.board[index]), self.training.ledger.plan
        return (
            f"Training of the {self.training.job.model} model stopped at step {done} of {plan.steps}: "
            f"the process of block {index + 1} of {len(self.processes)}"
        )


class _Gathering:
    """Puts the blocks' figures and states together, step by step, in the order in which ``local`` would."""

    def __init__(self, training: Training, count: int):
        self.training, self.count = training, count
        self._figures: dict[int, dict[int, dict[str, float]]] = {}
        self._states: dict[int, dict[int, bytes]] = {}

    def take(self, index: int, message: child.Figures | child.State) -> None:
        """Take a message of a block; act when all blocks have sent theirs."""
        if isinstance(message, child.Figures):
            found = self._figures.setdefault(message.done, {})
            found[index] = message.values
            if len(found) == self.count:
                merged = {name: value for block in sorted(found) for name, value in found[block].items()}
                self.training.ledger.note(message.done, merged)
                del self._figures[message.done]
        else:
            states = self._states.setdefault(message.done, {})
            states[index] = message.content
            if len(states) == self.count:
                self._stand(message.done, [states[block] for block in sorted(states)])
                del self._states[message.done]

    def _stand(self, done: int, contents: list[bytes]) -> None:
        """All blocks' states after ``done`` steps are here: evaluate and save as due."""
        training, ledger = self.training, self.training.ledger
        states = [torch.load(io.BytesIO(content), weights_only=True) for content in contents]
        ends_epoch = ledger.plan.ends_epoch(done)
        if ends_epoch:
            for stage, state in zip(training.stages, states, strict=True):
                stage.load_modules(state)
            if training.evaluate is not None:
                ledger.validated(done, training.evaluate(training.fabric))
        ledger.save(done, states)


def _same(ring: Ring) -> Ring:
    return ring
