"""The report of an evaluation: one HTML file that needs no other, with its tables and pictures, and both apart."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hybridkit.evaluation.history import RESULTS, history_to_json, keep_unreadable, read_history, with_new
from hybridkit.evaluation.request import EvalResult
from hybridkit.report import figure
from hybridkit.report.eval import markdown, notes, tables
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.markup import html_table, in_html
from hybridkit.system.errors import Failure
from hybridkit.system.files import write_whole
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.wide{overflow-x:auto}"
)


def write_report(findings: EvalResult, folder: Path) -> Path:
    """Add findings to report.html, report.md, results.json and the pictures (PNG and SVG); the path of the first.

    What was found before stays, behind them. Raises Failure where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _write(with_new(findings, _before(folder)), folder)
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return folder / "report.html"


def _write(history: Sequence[EvalResult], folder: Path) -> None:
    ends = [f"-{number}" if number > 1 else "" for number in range(1, len(history) + 1)]
    drawn = [
        {f"{name}{end}": made for name, made in eval_pictures(one)} for one, end in zip(history, ends, strict=True)
    ]
    files = {RESULTS: format_json(history_to_json(history), indent=1) + "\n", "report.md": markdown(history)}
    for name, picture in (pair for figures in drawn for pair in figures.items()):
        files[f"{name}.svg"] = figure.svg(picture)
        figure.write_figure(picture, folder / f"{name}.png", dpi=120)
    files["report.html"] = page(history, [[files[f"{name}.svg"] for name in figures] for figures in drawn])
    for name, text in files.items():
        write_whole(folder / name, text.encode())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time reads a folder's report and writes it anew."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _before(folder: Path) -> list[EvalResult]:
    """The evaluations so far; a file that cannot be read is put aside, and said so."""
    try:
        return read_history(folder)
    except (ValueError, RecursionError) as error:
        aside = keep_unreadable(folder)
        say(f"hybridkit: {folder / RESULTS} cannot be read ({error}); it is {aside} now", file=sys.stderr)
        return []


def page(history: Sequence[EvalResult], drawn: Sequence[Sequence[str]]) -> str:
    """The HTML document: for each evaluation, newest first, its tables, then its pictures inlined."""
    body = [_section(findings, images) for findings, images in zip(history, drawn, strict=True)]
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>Evaluation</h1>\n'
        + "\n<hr>\n<h1>Earlier</h1>\n".join(body)
        + "\n</body></html>\n"
    )


def _section(findings: EvalResult, images: Sequence[str]) -> str:
    figures = [f'<div class="wide">{text[text.index("<svg") :]}</div>' for text in images]
    said = (f"<p>{in_html(note)}</p>" for note in (*notes(findings), f"Intervals: {findings.settings['interval']}."))
    parts = (f"<h2>{in_html(t.title)}</h2>\n{html_table(t.columns, t.rows)}" for t in tables(findings))
    return "\n".join([*parts, *figures, *said])
