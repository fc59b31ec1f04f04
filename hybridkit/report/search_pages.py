"""A study's report: one HTML page that needs no other file, a Markdown page, and the pictures beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from hybridkit.report.figure import svg
from hybridkit.report.markup import in_html, in_markdown
from hybridkit.report.page import TextTable, html_page, inline_svg, write_files
from hybridkit.report.search import choice, figure, summarize
from hybridkit.report.search_plots import study_figures
from hybridkit.search.results import Results, curves, evaluations, results
from hybridkit.search.trials import half_interval
from hybridkit.system.errors import Failure
from hybridkit.system.links import check_tree

if TYPE_CHECKING:
    from hybridkit.search.study import Study


def write_pages(study: Study) -> list[Path]:
    """Write STUDY/report/report.html and report.md with the pictures; their paths. Raises Failure."""
    found = results(study)
    drawn = [(name, title, svg(drawing)) for name, title, drawing in study_figures(found, curves(study))]
    sheets = [ranking(found), *_scores(found, evaluations(study)), _failures(found)]
    sheets = [sheet for sheet in sheets if sheet.rows]
    files = {f"{name}.svg": svg for name, _, svg in drawn}
    files["report.html"] = _html(found, sheets, drawn)
    files["report.md"] = _markdown(found, sheets, drawn)
    folder = study.folder / "report"
    check_tree(study.folder)
    try:
        folder.mkdir(exist_ok=True)
        write_files(folder, files)
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return [folder / "report.html", folder / "report.md"]


def ranking(found: Results) -> TextTable:
    """Every finished trial, the best first."""
    columns = ("place", "trial", *found.objectives, "choice", "pattern")
    rows = [
        (
            str(row.place),
            str(row.trial.number),
            *map(figure, row.means, row.half_intervals),
            choice(row.trial),
            row.trial.pattern,
        )
        for row in found.rows
    ]
    seeds = f"mean ± half the 95 % interval over {found.seeds} seeds" if found.seeds > 1 else "one seed"
    return TextTable(
        f"Ranking ({seeds}; the front stands out)",
        columns,
        rows,
        [i for i, row in enumerate(found.rows) if row.on_front],
    )


def _scores(found: Results, tables: Mapping[str, Mapping[int, Mapping[str, list[float]]]]) -> list[TextTable]:
    """Scores by length or distance, a sheet for each task and test window, trials in the order of the ranking."""
    order = [row.trial for row in found.rows]
    sheets = []
    for title, trials in sorted(tables.items()):
        lengths = sorted({length for scores in trials.values() for length in scores}, key=int)
        rows = [
            (choice(trial) or str(trial.number), *(_cell(trials[trial.number].get(length)) for length in lengths))
            for trial in order
            if trial.number in trials
        ]
        sheets.append(TextTable(title, ("choice", *lengths), rows))
    return sheets


def _cell(scores: Sequence[float] | None) -> str:
    return figure(fmean(scores), half_interval(scores)) if scores else ""


def _failures(found: Results) -> TextTable:
    ended = [trial for trial in found.trials if trial.state in ("failed", "pruned")]
    rows = [(str(trial.number), trial.state, trial.reason, choice(trial), trial.pattern) for trial in ended]
    return TextTable("Trials that did not come to their end", ("trial", "", "reason", "choice", "pattern"), rows)


def _html(found: Results, sheets: Sequence[TextTable], drawn: Sequence[tuple[str, str, str]]) -> str:
    pictures = (f"<h2>{in_html(title)}</h2>{inline_svg(svg)}" for _, title, svg in drawn)
    summary = f"<p>{in_html(summarize(found))}</p>"
    return html_page(found.name, [summary, *(sheet.html() for sheet in sheets), *pictures])


def _markdown(found: Results, sheets: Sequence[TextTable], drawn: Sequence[tuple[str, str, str]]) -> str:
    parts = [f"# {in_markdown(found.name)}", in_markdown(summarize(found)), *(sheet.markdown() for sheet in sheets)]
    parts += [f"## {title}\n\n![{title}]({name}.svg)" for name, title, _ in drawn]
    return "\n\n".join(parts) + "\n"
