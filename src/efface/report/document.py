"""An audit as Markdown and as plain text: the same words and figures as the page, without pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.report import beyond, view, words
from efface.report.blocks import Block, Cell, Section, Table, table
from efface.report.card import plain
from efface.report.folder import Run, check_audit, read_run
from efface.report.render import save_page

WIDTH = 100
"""Columns of a plain text; tables may be wider."""
FORMATS = {"md": "report.md", "text": "report.txt"}
"""Where each goes in a run folder."""


def write_document(folder: Path, kind: str, out: Path | None = None) -> Path:
    """Write a run folder's report as Markdown (``md``) or plain text (``text``); return its path.

    Raises:
        CheckpointError: audit.json is missing, damaged, or of another schema version.
    """
    run = read_run(Path(folder))
    text = markdown(run) if kind == "md" else plain_text(run)
    return save_page(text, Path(out) if out is not None else Path(folder) / FORMATS[kind])


def markdown(run: Run | Mapping[str, Any]) -> str:
    """Return a run, or the content of audit.json, as Markdown; text from data is escaped."""
    run = _run(run)
    parts = [f"# {plain(run.audit['name'])}", plain(words.summary(run.audit["attributes"]))]
    for section in sections(run):
        parts += [f"## {plain(section.title)}", *([plain(section.note)] if section.note else [])]
        for block in section.blocks:
            parts += [f"### {plain(block.heading)}"] if block.heading else []
            parts += [plain(sentence) for sentence in block.sentences]
            parts += [_markdown_table(made) for made in block.tables]
            parts += ["\n".join(f"- {plain(mark)}" for mark in block.marks)] if block.marks else []
    return "\n\n".join(parts) + "\n"


def plain_text(run: Run | Mapping[str, Any]) -> str:
    """Return a run, or the content of audit.json, as plain text."""
    run = _run(run)
    name = str(run.audit["name"])
    parts = [f"{name}\n{'=' * len(name)}", _wrapped(words.summary(run.audit["attributes"]))]
    for section in sections(run):
        parts += [f"{section.title}\n{'-' * len(section.title)}", *([_wrapped(section.note)] if section.note else [])]
        for block in section.blocks:
            parts += [f"{block.heading}:"] if block.heading else []
            parts += [_wrapped(sentence) for sentence in block.sentences]
            parts += [_text_table(made) for made in block.tables]
            parts += ["\n".join(_wrapped(mark, "- ") for mark in block.marks)] if block.marks else []
    lines = "\n\n".join(parts).replace("\xa0", " ").split("\n")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def sections(run: Run) -> Iterator[Section]:
    """Yield the sections of a report, in the order of the page."""
    audit = run.audit
    yield verdicts(audit)
    yield Section("fidelity", "Fidelity: is the task still done?", "", "", (Block(sentences=(_fidelity(audit),)),))
    for made in (beyond.layers(audit), beyond.other_layers(audit)):
        if made is not None:
            yield made
    yield attackers(audit)
    yield from beyond.before_people(audit)
    pictures = reconstructions(audit)
    if pictures is not None:
        yield pictures
    yield from beyond.after_people(audit)
    yield method(run)
    remarks = tuple(f"{source}: {text}" for source, text in view.warnings(run))
    if remarks:
        yield Section("warnings", "Warnings", "", "", (Block(marks=remarks),))


def verdicts(audit: Mapping[str, Any]) -> Section:
    """Return the leakage card: what may be said of each attribute."""
    blocks = []
    for card in view.cards(audit):
        name = card["name"]
        rows = [(row["label"], Cell(row["value"], row["note"])) for row in card["measures"]]
        rows += [(title, Cell(value)) for title, value in card["floors"]]
        made = table(f"Measures of {name}", ("measure", "value"), rows, words=[1])
        blocks.append(Block(name, (card["headline"], " ".join(card["sentences"])), (made,)))
    blocks.append(Block(sentences=(words.caveat(audit["attributes"]),)))
    return Section("verdict", "What attackers still read", "", "", tuple(blocks))


def attackers(audit: Mapping[str, Any]) -> Section:
    """Return the table of attackers of each attribute, with floors and ceiling."""
    threat = (audit.get("threat") or {}).get("description")
    blocks = [Block(sentences=(str(threat),))] if threat else []
    full = view.has_figures(audit)
    head = ("attacker", "accuracy", "on the original", *(("balanced", "AUC") if full else ()), "bits")
    head = (*head, *(("beyond the task",) if full else ()), "validation", "time")
    for name, attribute in audit["attributes"].items():
        rows: list[Sequence[Cell | str]] = []
        for row in view.attackers(attribute):
            called = f"{row['name']} (best)" if row["best"] else row["name"]
            more = (row["balanced"], row["auc"]) if full else ()
            rows.append(
                (
                    called,
                    Cell(row["accuracy"], row["ci"]),
                    row["before"],
                    *more,
                    row["bits"],
                    *((row["conditional"],) if full else ()),
                    row["validation"],
                    row["seconds"],
                )
            )
        empty = ("",) * (len(head) - 2)
        rows += [(Cell(label, meaning), value, *empty) for label, value, meaning in view.references(attribute)]
        blocks.append(Block(name, (), (table(f"Attackers on {name}", head, rows),)))
    return Section("attackers", "Attackers, floors and ceiling", "", "", tuple(blocks))


def reconstructions(audit: Mapping[str, Any]) -> Section | None:
    """Return how alike drawings are, and what is read off them; None if nothing was drawn."""
    rows, read = view.reconstruction_rows(audit), beyond.recovery(audit)
    if not rows and read is None:
        return None
    blocks = (
        [Block(tables=(table("Quality of the reconstructions", ("decoder", "PSNR", "SSIM"), rows),))] if rows else []
    )
    return Section("people", "Images drawn from the features", "", "", (*blocks, *(read.blocks if read else ())))


def method(run: Run) -> Section:
    """Return how the audit was made: facts, model, time, versions."""
    audit = run.audit
    tables = [
        table("Audit", ("fact", "value"), view.facts(audit), words=[1]),
        table("Model", ("fact", "value"), view.model_rows(audit), words=[1]),
    ]
    phases = view.phases(audit, None)
    if phases:
        rows = [(row["label"], row["text"]) for row in phases["rows"]] + list(phases["parts"])
        rows += [("Total", phases["total"]), ("Peak memory", phases["memory"])]
        tables.append(table("Time and memory", ("phase", "time"), rows))
    for caption, rows in (("Hardware", view.hardware(run.environment)), ("Packages", view.versions(run.environment))):
        if rows:
            tables.append(table(caption, (caption.lower(), "value"), rows, words=[1]))
    command = (run.environment or {}).get("command")
    told = (f"Made by `{command}`.",) if command else ()
    schema = f"Schema of audit.json: version {audit['schema_version']}."
    return Section("method", "Method and versions", "", "", (Block(sentences=(*told, schema), tables=tuple(tables)),))


def _fidelity(audit: Mapping[str, Any]) -> str:
    return words.fidelity_sentence(audit["fidelity"], view.setting_of(audit))


def _run(run: Run | Mapping[str, Any]) -> Run:
    return run if isinstance(run, Run) else Run(check_audit(dict(run)))


def _joined(cell: Cell) -> str:
    return f"{cell.text} ({cell.under})" if cell.under else cell.text


def _markdown_table(made: Table) -> str:
    marks = [":--" if column == 0 or column in made.words else "--:" for column in range(len(made.head))]
    rows = [[plain(title) for title in made.head], marks]
    rows += [[plain(_joined(cell)) for cell in row] for row in made.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text_table(made: Table) -> str:
    rows = [list(made.head), *([_joined(cell) for cell in row] for row in made.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(made.head))]

    def line(row: Sequence[str]) -> str:
        left = [column == 0 or column in made.words for column in range(len(row))]
        return "  ".join(
            text.ljust(width) if flush else text.rjust(width)
            for text, width, flush in zip(row, widths, left, strict=True)
        )

    return "\n".join(f"  {line(row)}" for row in rows)


def _wrapped(text: str, bullet: str = "") -> str:
    # The space before % is no place to break a line.
    return textwrap.fill(
        text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_long_words=False
    )


__all__ = ["FORMATS", "markdown", "plain_text", "sections", "write_document"]
