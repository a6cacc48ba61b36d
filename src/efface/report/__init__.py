"""Reports, rendered from a run folder alone: no torch, no network.

`render_report` and `render_audit` make the page of one run, `render_comparison` sets several runs side by side,
`write_document` makes Markdown or plain text, and `write_model_card` writes the run folder's README.md. The sentences
are in `words`, the format of audit.json in ``audit.schema.json``.
"""

from efface.report.card import write_model_card
from efface.report.compare import render_comparison
from efface.report.document import markdown, plain_text, write_document
from efface.report.render import render_audit, render_report

__all__ = [
    "markdown",
    "plain_text",
    "render_audit",
    "render_comparison",
    "render_report",
    "write_document",
    "write_model_card",
]
