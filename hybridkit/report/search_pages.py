"""The report of a study: an HTML page that needs no other file, a Markdown page, and the figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from hybridkit.report.figure import svg
from hybridkit.report.markup import html_table, in_html, in_markdown, markdown_table
from hybridkit.report.search import format_choice, format_mean, summarize
from hybridkit.report.search_plots import study_figures
from hybridkit.search.results import Results, curves, evaluations, results
from hybridkit.search.trials import half_interval
from hybridkit.system.errors import Failure
from hybridkit.system.files import write_whole
from hybridkit.system.links import check_tree

if TYPE_CHECKING:
    from hybridkit.search.study import Study

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd}tr.front{background:#fdf3e7}svg{max-width:100%;height:auto}.wide{overflow-x:auto}"
)


class Sheet(NamedTuple):
    """A table of text; `front`: the rows that are highlighted."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    front: Sequence[int] = ()


def write_pages(study: Study) -> list[Path]:
    """Write STUDY/report/report.html and report.md with the figures; their paths. Raises Failure."""
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
        for name, text in files.items():
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise Failure(f"{folder}: the report cannot be written: {error.strerror}") from error
    return [folder / "report.html", folder / "report.md"]


def ranking(found: Results) -> Sheet:
    """Every finished trial, the best first."""
    columns = ("place", "trial", *found.objectives, "choice", "pattern")
    rows = [
        (
            str(row.place),
            str(row.trial.number),
            *map(format_mean, row.means, row.half_intervals),
            format_choice(row.trial),
            row.trial.pattern,
        )
        for row in found.rows
    ]
    seeds = f"mean ± half the 95 % interval over {found.seeds} seeds" if found.seeds > 1 else "one seed"
    front = [place for place, row in enumerate(found.rows) if row.on_front]
    return Sheet(f"Ranking ({seeds}; the Pareto front is highlighted)", columns, rows, front)


def _scores(found: Results, tables: Mapping[str, Mapping[int, Mapping[str, list[float]]]]) -> list[Sheet]:
    """Scores by length or gap: a sheet for each task and test window, trials in the order of the ranking."""
    order = [row.trial for row in found.rows]
    sheets = []
    for title, scores in sorted(tables.items()):
        lengths = sorted({length for one in scores.values() for length in one}, key=int)
        rows = []
        for trial in (trial for trial in order if trial.number in scores):
            cells = (_cell(scores[trial.number].get(length)) for length in lengths)
            rows.append((format_choice(trial) or str(trial.number), *cells))
        sheets.append(Sheet(title, ("choice", *lengths), rows))
    return sheets


def _cell(scores: Sequence[float] | None) -> str:
    return format_mean(fmean(scores), half_interval(scores)) if scores else ""


def _failures(found: Results) -> Sheet:
    ended = [trial for trial in found.trials if trial.state in ("failed", "pruned")]
    rows = [(str(trial.number), trial.state, trial.reason, format_choice(trial), trial.pattern) for trial in ended]
    return Sheet("Trials that failed or were pruned", ("trial", "state", "reason", "choice", "pattern"), rows)


def _html(found: Results, sheets: Sequence[Sheet], drawn: Sequence[tuple[str, str, str]]) -> str:
    body = [f"<h1>{in_html(found.name)}</h1>", f"<p>{in_html(summarize(found))}</p>", *map(_table, sheets)]
    body += [f'<h2>{in_html(title)}</h2><div class="wide">{svg[svg.index("<svg") :]}</div>' for _, title, svg in drawn]
    head = f'<meta charset="utf-8"><title>{in_html(found.name)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(sheet: Sheet) -> str:
    return f"<h2>{in_html(sheet.title)}</h2>{html_table(sheet.columns, sheet.rows, sheet.front)}"


def _markdown(found: Results, sheets: Sequence[Sheet], drawn: Sequence[tuple[str, str, str]]) -> str:
    parts = [f"# {in_markdown(found.name)}", in_markdown(summarize(found))]
    parts += [f"## {in_markdown(sheet.title)}\n\n{markdown_table(sheet.columns, sheet.rows)}" for sheet in sheets]
    parts += [f"## {title}\n\n![{title}]({name}.svg)" for name, title, _ in drawn]
    return "\n\n".join(parts) + "\n"
