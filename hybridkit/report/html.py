"""The report of an evaluation: one HTML file that needs no other, with its tables and pictures, and both apart."""

from __future__ import annotations

import json
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from hybridkit.errors import Failure
from hybridkit.evaluate.questions import Findings
from hybridkit.report.eval import Table, haystack_note, markdown, tables
from hybridkit.report.heatmap import pictures
from hybridkit.run import refuse_links
from hybridkit.train.files import write_whole

if TYPE_CHECKING:  # half a second
    from matplotlib.figure import Figure

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
    files |= {f"{name}.svg": svg(figure) for name, figure in drawn.items()}
    files["report.html"] = page(findings, [files[f"{name}.svg"] for name in drawn])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            refuse_links([folder / f"{name}.png"])
            figure.savefig(folder / f"{name}.png", dpi=120)
        for name, text in files.items():
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return folder / "report.html"


def svg(figure: Figure) -> str:
    """A figure as an SVG document."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def page(findings: Findings, drawn: list[str]) -> str:
    """The HTML document: tables, then pictures inlined."""
    notes = [note for note in (haystack_note(findings), f"Intervals: {findings.settings['interval']}.") if note]
    figures = [f'<div class="wide">{text[text.index("<svg") :]}</div>' for text in drawn]
    body = [*map(_table, tables(findings)), *figures, *(f"<p>{escape(note)}</p>" for note in notes)]
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>Evaluation</h1>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
    return f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>'
