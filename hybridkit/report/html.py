"""The report of an evaluation: one HTML file that needs no other, with its tables and pictures, and both apart."""

from __future__ import annotations

import json
from pathlib import Path

from hybridkit.errors import Failure
from hybridkit.evaluate.questions import Findings
from hybridkit.report import figure
from hybridkit.report.eval import haystack_note, markdown, tables
from hybridkit.report.heatmap import pictures
from hybridkit.report.markup import html_table, in_html

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.wide{overflow-x:auto}"
)


def write(findings: Findings, folder: Path) -> Path:
    """Write report.html, report.md, results.json and the pictures as PNG and SVG; returns the path of the first.

    Raises Failure where the folder cannot be written.
    """
    drawn = dict(pictures(findings))
    files = {"results.json": json.dumps(findings.to_json(), indent=1) + "\n", "report.md": markdown(findings)}
    files |= {f"{name}.svg": figure.svg(picture) for name, picture in drawn.items()}
    files["report.html"] = page(findings, [files[f"{name}.svg"] for name in drawn])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            figure.write(picture, folder / f"{name}.png", dpi=120)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return folder / "report.html"


def page(findings: Findings, drawn: list[str]) -> str:
    """The HTML document: tables, then pictures inlined."""
    notes = [note for note in (haystack_note(findings), f"Intervals: {findings.settings['interval']}.") if note]
    figures = [f'<div class="wide">{text[text.index("<svg") :]}</div>' for text in drawn]
    found = [f"<h2>{in_html(t.title)}</h2>\n{html_table(t.columns, t.rows)}" for t in tables(findings)]
    body = [*found, *figures, *(f"<p>{in_html(note)}</p>" for note in notes)]
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>Evaluation</h1>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )
