"""``efface bench``: how fast and how small training is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from efface.cli.app import app, console, errors
from efface.errors import ConfigError, expected


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="step, memory, data, audit, scale or gpu.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON file; a page of the same name ending in .md is written beside it.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny, in seconds: tries it out, says nothing.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Samples of each variant.")] = None,
    model: Annotated[str | None, typer.Option(help="Network; of memory and gpu several, separated by commas.")] = None,
    at: Annotated[str | None, typer.Option(help="Cut after this layer, or several, separated by commas.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Base channels of a ResNet-18 or -34.")] = None,
    batch: Annotated[str | None, typer.Option(help="Images of a step; of gpu several, separated by commas.")] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Height and width of the images, pixels.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a sample that are timed.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Of scale: numbers of images, separated by commas.")] = None,
    preset: Annotated[str | None, typer.Option(help="Of audit: presets or YAML files, separated by commas.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of audit: a setting of its runs.")
    ] = None,
    blocks: Annotated[int | None, typer.Option(min=2, max=4, help="Of memory: most blocks of a cut.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Of gpu: after which nothing new is begun.")] = None,
    brief: Annotated[
        bool, typer.Option("--brief", help="Leave out a held core (step) and the resident set (memory).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing meanwhile.")] = False,
) -> None:
    """Measure on this machine: variants by turns in one run, other work watched; write JSON and Markdown.

    Examples:
      efface bench step --out step.json

      efface bench memory --model resnet18,resnet50 --out memory.json

      efface bench gpu --minutes 6 --out gpu.json
    """
    from efface.experiments.bench import run_bench, settings_of, write_result

    out = _writable(out)
    several = name in ("memory", "gpu")
    settings = settings_of(
        name,
        smoke,
        rounds=rounds,
        models=_names(model) if several else None,
        model=None if several else model,
        at=_names(at),
        width=width,
        batches=_numbers("--batch", batch) if name == "gpu" else None,
        batch=_one("--batch", batch) if name != "gpu" else None,
        size=size,
        steps=steps,
        sizes=_numbers("--sizes", sizes),
        presets=_names(preset),
        overrides=tuple(set_) if set_ else None,
        blocks=blocks,
        minutes=minutes,
        more=False if brief else None,
    )
    result = run_bench(name, settings, (lambda _: None) if quiet else lambda text: errors.print(text, highlight=False))
    page = write_result(result, out)
    console.print(page.read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Result: {out}, {page}", highlight=False, markup=False, soft_wrap=True)


def _writable(out: Path) -> Path:
    """Refuse a file that can't be written before anything is measured."""
    if out.suffix != ".json":
        raise ConfigError(expected("--out", "a file ending in .json", str(out)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a"):
            pass
    except OSError as error:
        raise ConfigError(f"Cannot write {str(out)!r}: {error}. Name another file with --out.") from None
    if not out.stat().st_size:
        out.unlink()
    return out


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text is not None else None


def _numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
    names = _names(text)
    if names is None:
        return None
    if not names or not all(name.isdigit() and int(name) for name in names):
        raise ConfigError(expected(flag, "numbers above 0, separated by commas", text))
    return tuple(map(int, names))


def _one(flag: str, text: str | None) -> int | None:
    numbers = _numbers(flag, text)
    if numbers is not None and len(numbers) > 1:
        raise ConfigError(expected(flag, "one number, except for gpu", text))
    return numbers[0] if numbers else None
