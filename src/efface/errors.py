"""Every error a user can meet: one tree, one message template.

The template: *Expected `argument` to be …, but got …. Valid …: …. Try …* Problems are collected and told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class EffaceError(Exception):
    """Root of all errors that the user can mend; the command line prints them on one screen and exits with 2.

    Attributes:
        problems: What it tells, one by one; empty where it is a single problem.
    """

    problems: tuple[str, ...] = ()


class ConfigError(EffaceError, ValueError):
    """A setting has a wrong name, type or value."""


class DataError(EffaceError, ValueError):
    """A data set can't be read, or lacks what the job needs."""


class CutError(EffaceError, ValueError):
    """A model can't be cut at the named layer."""


class ShapeError(EffaceError, TypeError):
    """A tensor has a shape that the piece does not take."""


class TrainingError(EffaceError, RuntimeError):
    """Training stopped: non-finite loss, or a method that can't go on."""


class CheckpointError(EffaceError, RuntimeError):
    """A checkpoint or run folder is missing, damaged, or of another configuration."""


class AuditError(EffaceError, ValueError):
    """An audit can't be made of what was given."""


def expected(argument: str, wanted: str, got: object, hint: str = "") -> str:
    """Return the one message template of this package.

    Example:
        >>> expected("epochs", "an integer larger than 0", -1)
        'Expected `epochs` to be an integer larger than 0, but got -1.'
    """
    return f"Expected `{argument}` to be {wanted}, but got {got!r}." + (f" {hint}" if hint else "")


def did_you_mean(name: str, valid: Iterable[str], limit: int = 20) -> str:
    """Return 'Did you mean …? Valid names: …' for a name that is not in ``valid``.

    Example:
        >>> did_you_mean("gendr", ["gender", "race"])
        "Did you mean 'gender'? Valid names: gender, race."
    """
    names = list(valid)
    close = get_close_matches(name, names, n=1) or [other for other in names if name and name in other]
    guess = f"Did you mean {close[0]!r}? " if close else ""
    more = f", … ({len(names)} in all)" if len(names) > limit else ""
    return f"{guess}Valid names: {', '.join(names[:limit])}{more}."


class Problems:
    """Collects problems, so that the user sees all of them at once.

    Example:
        >>> problems = Problems(DataError)
        >>> problems.add("No column 'a'.")
        >>> problems.raise_if_any()
        Traceback (most recent call last):
        ...
        efface.errors.DataError: No column 'a'.
    """

    def __init__(self, error: type[EffaceError]):
        self.error = error
        self.messages: list[str] = []
        self._caught: set[type[EffaceError]] = set()

    def add(self, message: str) -> None:
        """Note one problem."""
        self.messages.append(message)

    def check(self, argument: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
        """Note a problem where an argument is of none of these types."""
        if not isinstance(value, kinds):
            self.add(expected(argument, wanted, value))

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Return what a step returns; None, and its problems noted, where it fails."""
        try:
            return step()
        except EffaceError as error:
            self.messages += error.problems or [str(error)]
            self._caught.add(type(error))
            return None

    def raise_if_any(self) -> None:
        """Raise the collected problems as one error."""
        if self.messages:
            raise self.collected()

    def collected(self) -> EffaceError:
        """Return the collected problems, one at least, as one error, numbered if there are several.

        Its type is that of the errors that were noted, if they have one in common.
        """
        kind = next(iter(self._caught)) if len(self._caught) == 1 else self.error
        if len(self.messages) == 1:
            return kind(self.messages[0])
        lines = "\n".join(f"{i}. {message}" for i, message in enumerate(self.messages, 1))
        error = kind(f"{len(self.messages)} problems:\n{lines}")
        error.problems = tuple(self.messages)
        return error
