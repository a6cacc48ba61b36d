"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

Preset = Annotated[str, typer.Argument(help="A preset (efface ls presets) or a YAML file.", show_default=False)]
Data = Annotated[
    str | None, typer.Option("--data", help="Data set in place of data.source: a folder, or a Hugging Face hub name.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as engine.epochs=5. May be repeated."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def overrides(data: str | None, settings: Sequence[str] | None) -> list[str]:
    """Return the settings of a command, ``--data`` first: another source does not take the options of the preset's.

    Example:
        >>> overrides("faces", ["seed=1"])
        ['data.source="faces"', 'data.options={}', 'seed=1']
    """
    # A JSON string is a YAML string, whatever is in it.
    source = [f"data.source={json.dumps(data, ensure_ascii=False)}", "data.options={}"] if data is not None else []
    return [*source, *(settings or [])]
