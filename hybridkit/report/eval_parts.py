"""Evaluations as elements of a page: tables and pictures of all that was found, what compares in one of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hybridkit.evaluation.request import EvalResult
from hybridkit.report.console import apart
from hybridkit.report.eval_tables import BY_POSITION, ORIGINS, notes, tables
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.page import TextTable, folded, paragraph
from hybridkit.report.page_picture import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluation_parts(results: Sequence[EvalResult]) -> Iterator[str]:
    """The elements of results, whose tables hold all runs; results under other settings follow."""
    for place, result in enumerate(merged_results(results), start=1):
        if place > 1:
            yield "<h3>Under other settings</h3>"
        yield from result_parts(result, eval_pictures(result), f"-{place}" if place > 1 else "")


def result_parts(result: EvalResult, drawn: Iterable[tuple[str, Figure]], end: str = "") -> Iterator[str]:
    """Pictures, tables and notes of one result; its pictures' names end in `end`, since no two of a page are alike."""
    for name, drawing in drawn:
        yield picture(f"{name}{end}", TITLES.get(name) or TITLES.get(name.partition("-")[0], name), drawing)
    by_title = {table.title: fitting(table) for table in tables(result)}
    detailed = {title for title in by_title if title.startswith(BY_POSITION) or title == ORIGINS}
    yield from (table.html() for title, table in by_title.items() if title not in detailed)
    for said in (BY_POSITION, ORIGINS):
        if found := [table for title, table in by_title.items() if title.startswith(said)]:
            single = len(found) == 1
            yield folded(found[0].title if single else f"{said} in numbers", [
                (table._replace(title="") if single else table).html() for table in found
            ])  # fmt: skip
    yield from map(paragraph, (*notes(result), f"Intervals: {result.settings['interval']}."))


def fitting(table: TextTable) -> TextTable:
    """A table as a page has room for it: a wide one without what its names share, or with its rows as columns."""
    if len(table.rows) < 2:
        return table
    table = table.without_repeats()
    if table.characters <= ROOM:
        return table
    if "run" in table.columns[: table.heads]:
        at = table.columns.index("run")
        common, names = apart([row[at] for row in table.rows])
        rows = [[*row[:at], name, *row[at + 1 :]] for row, name in zip(table.rows, names, strict=True)]
        table = table._replace(rows=rows, title=f"{table.title}; runs in {common}" if common else table.title)
    scores = SCORES.get(table.title.partition(":")[0])
    return table.narrowest(scores) if scores and table.characters > ROOM else table


ROOM = 125  # characters of a table that a page of 68 rem has room for
SCORES = {"Needles": "length", "Recall": "distance"}  # tables of scores, and what their columns are
TITLES = {
    "depth": "Right answers by the length of the prompt and the depth of the needle",
    "length": "Score by the length of the prompt and the window at test time",
    "train": "Score by the windows of training and of the test",
    "position": "Loss by the number of tokens before",
    "recall": "Recall by distance, with 95 % intervals",
    "recall-window": "Recall by distance and by the window at test time",
}


def merged_results(results: Sequence[EvalResult]) -> list[EvalResult]:
    """Results under the same settings as one; where a question was asked twice, the first answer stands."""
    groups: dict[str, EvalResult] = {}
    for result in results:
        key = json.dumps(result.settings, sort_keys=True)
        groups[key] = _joined(groups[key], result) if key in groups else result
    return list(groups.values())


def _joined(a: EvalResult, b: EvalResult) -> EvalResult:
    cells = _first(((c.run, c.task, c.length, c.window), c) for c in (*a.cells, *b.cells))
    depths = _first(((d.run, d.task, d.length, d.window, d.depth), d) for d in (*a.depths, *b.depths))
    bins = _first(
        ((r["run"], r["window"], r.get("context"), r.get("text"), r["first"]), r)
        for r in (*a.by_position, *b.by_position)
    )
    return replace(
        a,
        trained=_first((*a.trained.items(), *b.trained.items())),
        origins=_first((*a.origins.items(), *b.origins.items())),
        cells=list(cells.values()),
        depths=list(depths.values()),
        perplexity=_first((*a.perplexity.items(), *b.perplexity.items())),
        by_position=list(bins.values()),
        tasks=_first((*a.tasks.items(), *b.tasks.items())),
        notes=list(dict.fromkeys([*a.notes, *b.notes])),
    )


def _first(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A dictionary in which the first value of a key stands, at its place."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found
