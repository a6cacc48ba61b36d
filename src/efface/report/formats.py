"""Numbers as people read them: fractions become percentages, seconds minutes, mebibytes gibibytes.

Everything here is pure; an absent or non-finite number becomes a dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

Number: TypeAlias = float | int
"""A number as JSON has it: 1.0 may come back as 1."""

NBSP = "\u00a0"
DASH = "–"
MINUS = "−"


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether a value is a finite number (and no bool).

    Example:
        >>> is_number(0.5), is_number(None), is_number(float("nan"))
        (True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, digits: int = 3) -> str:
    """Return a plain number with a true minus sign.

    Example:
        >>> number(0.94512), number(None)
        ('0.945', '–')
    """
    if not is_number(value):
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def percent(value: object, digits: int = 1) -> str:
    """Return a fraction as a percentage; the space before the sign does not break.

    Example:
        >>> percent(0.5213).replace(NBSP, " ")
        '52.1 %'
    """
    if not is_number(value):
        return DASH
    return f"{number(100 * value, digits)}{NBSP}%"


def interval(ci: Sequence[object] | None, digits: int = 1) -> str:
    """Return an interval of fractions as percentages.

    Example:
        >>> interval([0.499, 0.542]).replace(NBSP, " ")
        '49.9–54.2 %'
    """
    low, high = ci if ci is not None and len(ci) == 2 else (None, None)
    if not (is_number(low) and is_number(high)):
        return ""
    return f"{number(100 * low, digits)}–{percent(high, digits)}"


def points(change: object) -> str:
    """Return a difference of fractions in percentage points, with its sign.

    Example:
        >>> points(-0.0051), points(0.02)
        ('−0.5 points', '+2.0 points')
    """
    if not is_number(change):
        return DASH
    sign = "+" if round(100 * change, 1) > 0 else ""
    return f"{sign}{number(100 * change, 1)}{NBSP}points".replace(NBSP, " ")


def count(value: object) -> str:
    """Return a whole number with thousands separated.

    Example:
        >>> count(202599)
        '202,599'
    """
    return f"{value:,.0f}" if is_number(value) else DASH


def duration(seconds: object) -> str:
    """Return seconds in the largest two units that fit.

    Example:
        >>> [duration(s).replace(NBSP, " ") for s in (0.42, 12.3, 192, 7500)]
        ['0.4 s', '12.3 s', '3 min 12 s', '2 h 5 min']
    """
    if not is_number(seconds):
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def memory(megabytes: object) -> str:
    """Return mebibytes, or gibibytes from 1,024 on.

    Example:
        >>> memory(1912).replace(NBSP, " "), memory(640).replace(NBSP, " ")
        ('1.9 GiB', '640 MiB')
    """
    if not is_number(megabytes):
        return DASH
    return f"{megabytes / 1024:.1f}{NBSP}GiB" if megabytes >= 1024 else f"{megabytes:.0f}{NBSP}MiB"


def quantity(value: object) -> str:
    """Return a large count with a short suffix.

    Example:
        >>> quantity(11_181_642).replace(NBSP, " "), quantity(5.6e8).replace(NBSP, " "), quantity(812)
        ('11.2 M', '560.0 M', '812')
    """
    if not is_number(value):
        return DASH
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1000 if suffix == 'k' else size):.1f}{NBSP}{suffix}"
    return count(value)


def shortened(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters.

    Example:
        >>> shortened("resnet18", 6)
        'resne…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"
