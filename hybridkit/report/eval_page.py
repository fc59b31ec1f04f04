"""The report of an evaluation: one HTML file that needs no other. Its tables and pictures are written as files of
their own, too."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hybridkit.evaluation.history import RESULTS, history_to_json, keep_unreadable, read_history, with_new
from hybridkit.evaluation.request import EvalResult
from hybridkit.report import figure
from hybridkit.report.eval_parts import result_parts
from hybridkit.report.eval_tables import markdown_pages
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.page import PageSection, about, html_page, write_files
from hybridkit.report.plot_style import DPI
from hybridkit.system.errors import Failure
from hybridkit.system.strict_json import format_json
from hybridkit.system.terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(result: EvalResult, folder: Path) -> Path:
    """Add a result to report.html, report.md, results.json and the pictures (PNG and SVG); the path of the first.

    Earlier results stay, behind it. Raises Failure where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _write(with_new(result, _before(folder)), folder)
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return folder / "report.html"


def _write(history: Sequence[EvalResult], folder: Path) -> None:
    drawn = [list(eval_pictures(one)) for one in history]
    files = {RESULTS: format_json(history_to_json(history), indent=1) + "\n", "report.md": markdown_pages(history)}
    files["report.html"] = page(history, drawn)
    for place, pictures in enumerate(drawn, start=1):
        for name, picture in pictures:
            name = f"{name}-{place}" if place > 1 else name
            files[f"{name}.svg"] = figure.svg(picture)
            figure.write_figure(picture, folder / f"{name}.png", dpi=DPI)
    write_files(folder, files)


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


def page(history: Sequence[EvalResult], drawn: Sequence[Sequence[tuple[str, Figure]]]) -> str:
    """The HTML document: for each evaluation, newest first, its pictures and their names, its tables, its notes."""
    sections = []
    for place, (result, pictures) in enumerate(zip(history, drawn, strict=True)):
        parts = list(result_parts(result, pictures, f"-{place + 1}" if place else ""))
        sections.append(PageSection(f"Earlier, {place}" if place else "Results", parts))
    return html_page(f"Evaluation of {'; '.join(history[0].trained)}", [about()], sections)
