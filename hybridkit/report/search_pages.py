"""The report of a study: an HTML page that needs no other file, a Markdown page, and the figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from hybridkit.report.compare import comparison_figures, comparison_tables, scores_of
from hybridkit.report.figure import svg
from hybridkit.report.markup import in_markdown
from hybridkit.report.page import PageSection, TextTable, about, html_page, paragraph, write_files
from hybridkit.report.page_picture import picture
from hybridkit.report.search import format_choice, format_mean, summarize, written_means
from hybridkit.report.search_plots import study_figures
from hybridkit.search.compare import Comparison, comparison
from hybridkit.search.results import Results, TrialScores, curves, results, trial_scores
from hybridkit.search.trials import half_interval
from hybridkit.system.errors import Failure
from hybridkit.system.links import check_tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hybridkit.search.reader import StudyReader

Drawn = tuple[str, str, "Figure"]  # the name of a picture's file, its title, and the picture


def write_pages(study: StudyReader) -> list[Path]:
    """Write STUDY/report/report.html and report.md with the figures; their paths. Raises Failure."""
    found = results(study)
    drawn, tables, compared = list(study_figures(found, curves(study))), trial_scores(study), comparison(study)
    sheets = [ranking(found), *_scores(_rows(found, compared), tables), _failures(found)]
    sheets = [sheet for sheet in sheets if sheet.rows]
    length = study.definition.base.recipe.data.sequence
    first = comparison_tables(compared) if compared else []
    shown = list(comparison_figures(compared, tables, length)) if compared else []
    files = {f"{name}.svg": svg(figure) for name, _, figure in (*shown, *drawn)}
    files["report.html"] = _html(found, sheets, drawn, _parts(first, shown))
    files["report.md"] = _markdown(found, [*first, *sheets], [*shown, *drawn])
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
            *means,
            format_choice(row.trial),
            row.trial.pattern,
        )
        for row, means in zip(found.rows, written_means(found, found.rows), strict=True)
    ]
    seeds = f"mean ± half the 95 % interval over {found.seeds} seeds" if found.seeds > 1 else "one seed"
    front = [place for place, row in enumerate(found.rows) if row.on_front]
    return TextTable(f"Ranking ({seeds}; the Pareto front is highlighted)", columns, rows, front)


def _rows(found: Results, compared: Comparison | None) -> list[tuple[str, list[int]]]:
    """The rows of tables of scores, with their trials: the arms, or else the trials in the order of the ranking."""
    if compared:
        return [(arm.label, trials) for arm, trials in compared.trials.items()]
    ranked = (row.trial for row in found.rows)
    return [(format_choice(trial) or str(trial.number), [trial.number]) for trial in ranked]


def _scores(rows: Sequence[tuple[str, list[int]]], tables: TrialScores) -> list[TextTable]:
    """Scores by length or gap: a table for each task and test window."""
    sheets = []
    for asked, table in sorted(tables.items()):
        lengths = sorted({length for one in table.values() for length in one}, key=int)
        scores = [(name, scores_of(table, trials)) for name, trials in rows]
        cells = [(name, *(_cell(found.get(length)) for length in lengths)) for name, found in scores if found]
        sheets.append(TextTable(asked.title, ("choice", *lengths), cells))
    return sheets


def _cell(scores: Sequence[float] | None) -> str:
    return format_mean(fmean(scores), half_interval(scores)) if scores else ""


def _failures(found: Results) -> TextTable:
    ended = [trial for trial in found.trials if trial.state in ("failed", "pruned")]
    rows = [(str(trial.number), trial.state, trial.reason, format_choice(trial), trial.pattern) for trial in ended]
    return TextTable("Trials that failed or were pruned", ("trial", "state", "reason", "choice", "pattern"), rows)


def _parts(sheets: Sequence[TextTable], drawn: Sequence[Drawn]) -> list[str]:
    """Pictures and tables as elements of a page."""
    return [*(picture(*one) for one in drawn), *(sheet.html() for sheet in sheets)]


def _html(found: Results, sheets: Sequence[TextTable], drawn: Sequence[Drawn], compared: Sequence[str] = ()) -> str:
    pictures = [picture(name, title, figure) for name, title, figure in drawn]
    ranked, *others = sheets or [TextTable("", [], [])]
    sections = [
        PageSection("Comparison", compared),
        PageSection("Results", [*pictures[:1], *([ranked.html()] if ranked.rows else [])]),
        PageSection("What matters", pictures[1:]),
        PageSection("Further tables", [sheet.html() for sheet in others]),
    ]
    return html_page(f"Study {found.name}", [about(), paragraph(summarize(found))], sections)


def _markdown(found: Results, sheets: Sequence[TextTable], drawn: Sequence[Drawn]) -> str:
    parts = [f"# {in_markdown(found.name)}", in_markdown(summarize(found)), *(sheet.markdown() for sheet in sheets)]
    parts += [f"## {title}\n\n![{title}]({name}.svg)" for name, title, _ in drawn]
    return "\n\n".join(parts) + "\n"
