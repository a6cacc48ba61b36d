"""Renders a run folder, or an audit in memory, as one HTML file that opens offline."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from efface.errors import CheckpointError, ConfigError
from efface.report import beyond, view, words
from efface.report.blocks import Section
from efface.report.folder import Run, check_audit, check_reconstructions, read_run, usable_metrics
from efface.report.formats import percent
from efface.report.theme import css_variables


def render_report(folder: Path, out: Path | None = None) -> Path:
    """Render a run folder as ``report.html``, and its figures as ``figures/*.png``.

    Reads audit.json, and whatever is there of config.yaml, environment.json, metrics.jsonl and reconstructions.npz.

    Args:
        folder: The run folder.
        out: Where the page goes; None: ``report.html`` in the run folder.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: audit.json is missing, damaged, or of another schema version.
    """
    folder = Path(folder)
    run = read_run(folder)
    return _write(run, Path(out) if out is not None else folder / "report.html")


def render_audit(
    audit: Mapping[str, Any],
    out: Path,
    *,
    metrics: Iterable[Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | str | None = None,
    environment: Mapping[str, Any] | None = None,
    reconstructions: Mapping[str, Any] | None = None,
) -> Path:
    """Render an audit in memory; what is not given is absent from the page, which says so.

    Args:
        audit: Content of audit.json.
        out: Where the page goes.
        metrics: Lines of metrics.jsonl.
        config: Configuration, as YAML text or as mapping.
        environment: Content of environment.json.
        reconstructions: ``images``, ``unlearned`` and perhaps ``original`` as uint8 ``[N, C, H, W]``, and ``labels``.

    Returns:
        ``out``.

    Raises:
        CheckpointError: The audit does not follow the schema, or the reconstructions have unfit shapes.
    """
    problem = check_reconstructions(reconstructions) if reconstructions is not None else None
    if problem:
        raise CheckpointError(f"Cannot show `reconstructions`: {problem}.")
    # Through JSON, so that tuples and NumPy's numbers read like the file would.
    plain = json.loads(json.dumps(audit, default=_plain))
    text = config if config is None or isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False)
    lines = usable_metrics(metrics or ())
    return _write(Run(check_audit(plain), lines, text, environment, reconstructions), Path(out))


@cache
def environment() -> jinja2.Environment:
    """Return the template environment: everything is escaped, unknown names are errors."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("efface.report"),
        autoescape=jinja2.select_autoescape(["html", "html.j2"], default_for_string=True),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _code
    return made


def shell() -> dict[str, Any]:
    """Return what every page needs."""
    return {"theme": Markup(css_variables()), "caveat": words.CAVEAT, "absent": words.ABSENT, "broad": False}


def slug(name: str, index: int) -> str:
    """Return a file name and id for an attribute.

    Example:
        >>> slug("Wearing <Hat>", 2)
        '2-wearing-hat'
    """
    return f"{index}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}".rstrip("-")


def save_page(text: str, out: Path) -> Path:
    """Write a page and return its path.

    Raises:
        ConfigError: It can't be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {str(out)!r}: {error.strerror}. Name another file with --out.") from None
    return out


def _write(run: Run, out: Path) -> Path:
    start = time.perf_counter()
    figures = run.folder / "figures" if run.folder is not None else None
    context = {
        **shell(),
        "sections": _attributes(run, figures),
        "curves": _curves(run, figures),
        "people": _people(run, figures),
        "maps": [_drawn(section) for section in _present(beyond.layers(run.audit), beyond.other_layers(run.audit))],
    }
    context |= _texts(run, time.perf_counter() - start)
    context["links"] = _links(context)
    return save_page(environment().get_template("report.html.j2").render(context), out)


def _texts(run: Run, seconds: float) -> dict[str, Any]:
    """Everything on the page that is not a figure."""
    audit, setting = run.audit, view.setting_of(run.audit)
    return {
        "title": audit["name"],
        "summary": words.summary(audit["attributes"]),
        "facts": view.facts(audit),
        "setting": setting,
        "caveat": words.caveat(audit["attributes"]),
        "has_figures": view.has_figures(audit),
        "before_people": beyond.before_people(audit),
        "after_people": beyond.after_people(audit),
        "recovery": beyond.recovery(audit),
        "has_original": any(a.get("original_attackers") for a in audit["attributes"].values()),
        "cards": view.cards(audit),
        "fidelity": view.fidelity(audit),
        "quality": view.reconstruction_rows(audit),
        "threat": (audit.get("threat") or {}).get("description"),
        "phases": view.phases(audit, seconds),
        "config": run.config,
        "command": (run.environment or {}).get("command"),
        "hardware": view.hardware(run.environment),
        "versions": view.versions(run.environment),
        "model_rows": view.model_rows(audit),
        "columns": view.columns(audit),
        "splits": view.splits(audit),
        "image_shape": "×".join(map(str, audit["data"].get("image_shape") or ())),
        "warnings": view.warnings(run),
        "schema_version": audit["schema_version"],
    }


def _present(*sections: Section | None) -> list[Section]:
    return [section for section in sections if section is not None]


def _links(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Sections of the page in order, for the list at its top."""

    def of(name: str) -> list[tuple[str, str]]:
        return [(section.key, section.label) for section in context[name]]

    return [
        ("verdict", "Verdict"),
        ("fidelity", "Fidelity"),
        *of("maps"),
        ("attackers", "Attackers"),
        *of("before_people"),
        ("people", "Reconstructions"),
        *of("after_people"),
        ("training", "Training"),
        ("cost", "Cost"),
        ("settings", "Settings"),
        ("data", "Data"),
        *([("warnings", "Warnings")] if context["warnings"] else []),
        ("again", "Reproduce"),
        ("terms", "Terms"),
    ]


def _drawn(section: Section) -> Section:
    """The section with its figures drawn."""
    from efface.report.plots import NARROW, attackers_figure
    from efface.report.svg import to_svg

    blocks = []
    for number, block in enumerate(section.blocks):
        if block.figure is not None:
            data, key = block.figure, f"{section.key}{number}"
            alt = " ".join(block.sentences)
            figure = {
                "caption": f"How well probes guess {block.heading} from each layer.",
                "wide": Markup(to_svg(partial(attackers_figure, data), alt, f"w{key}")),
                "narrow": Markup(to_svg(partial(attackers_figure, data, NARROW), alt, f"n{key}")),
            }
            block = replace(block, figure=figure)
        blocks.append(block)
    return replace(section, blocks=tuple(blocks))


def _attributes(run: Run, figures: Path | None) -> list[dict[str, Any]]:
    """One section per attribute: table rows and the plot for desk and phone."""
    from efface.report.plots import NARROW, attackers_figure
    from efface.report.svg import save_png, to_svg

    if figures is not None:
        for stale in figures.glob("attackers-*.png"):
            stale.unlink()
    sections = []
    for index, (name, attribute) in enumerate(run.audit["attributes"].items(), 1):
        key, alt = slug(name, index), _attackers_alt(name, attribute)
        if figures is not None:
            save_png(partial(attackers_figure, attribute), figures / f"attackers-{key}.png")
        sections.append(
            {
                "id": key,
                "name": name,
                "rows": view.attackers(attribute),
                "references": view.references(attribute),
                "wide": Markup(to_svg(partial(attackers_figure, attribute), alt, f"w{key}")),
                "narrow": Markup(to_svg(partial(attackers_figure, attribute, NARROW), alt, f"n{key}")),
            }
        )
    return sections


def _attackers_alt(name: str, attribute: Mapping[str, Any]) -> str:
    told = [f"{run['name']} {percent(run['accuracy'])}" for run in attribute["attackers"]]
    marks = [f"{label.lower()} {text}" for label, text, _ in view.references(attribute)]
    return f"Accuracy of each attacker on {name}: {', '.join(told)}. Reference lines: {', '.join(marks)}."


def _curves(run: Run, figures: Path | None) -> list[dict[str, Any]]:
    if not run.metrics:
        return []
    from efface.report.curves import panel_figure, panels, training_figure
    from efface.report.svg import save_png, to_svg

    found = panels(run.metrics)
    if figures is not None and found:
        save_png(partial(training_figure, found), figures / "training.png", dpi=110)
    return [
        {
            "title": panel.title,
            "unit": panel.unit,
            "svg": Markup(to_svg(partial(panel_figure, panel), panel.alt, f"c{index}")),
        }
        for index, panel in enumerate(found)
    ]


def _people(run: Run, figures: Path | None) -> list[dict[str, Any]]:
    """The same people in three rows, as PNG data."""
    if run.reconstructions is None:
        return []
    from efface.report.plots import ROWS, caption_of, reconstructions_figure

    arrays = run.reconstructions
    rows = {name: label.replace("\n", " ").capitalize() for name, label in ROWS.items() if name in arrays}
    if figures is not None:
        from efface.report.svg import save_png

        save_png(partial(reconstructions_figure, arrays), figures / "reconstructions.png", dpi=110)
    return [
        {
            "caption": caption_of(arrays, index) or f"image {index + 1}",
            "pictures": [(label, Markup(_data_uri(arrays[name][index]))) for name, label in rows.items()],
        }
        for index in range(len(arrays["images"]))
    ]


def _data_uri(picture: np.ndarray) -> str:
    """A uint8 ``[C, H, W]`` picture as PNG in a data URI."""
    from efface.report.plots import as_pixels

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(as_pixels(picture))).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _code(text: str) -> Markup:
    """`Back-quoted` parts of a text as ``<code>``, all of it escaped."""
    parts = str(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _plain(value: Any) -> Any:
    """NumPy's numbers and paths for JSON."""
    return value.item() if hasattr(value, "item") else str(value)
