"""Evaluations as elements of a page: tables and pictures of all that was found, what compares in one of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hybridkit.evaluation.request import EvalResult
from hybridkit.report.eval_tables import notes, tables
from hybridkit.report.heatmap import eval_pictures
from hybridkit.report.page import paragraph
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
        yield picture(f"{name}{end}", TITLES.get(name.partition("-")[0], name), drawing)
    yield from (table.html() for table in tables(result))
    yield from map(paragraph, (*notes(result), f"Intervals: {result.settings['interval']}."))


TITLES = {
    "depth": "Right answers by the length of the prompt and the depth of the needle",
    "length": "Score by the length of the prompt and the window at test time",
    "train": "Score by the windows of training and of the test",
    "position": "Loss by the number of tokens before",
    "recall": "Recall by distance, with 95 % intervals",
}


def merged_results(results: Sequence[EvalResult]) -> list[EvalResult]:
    """Results under the same settings as one; where a question was asked twice, the first answer stands."""
    groups: dict[str, EvalResult] = {}
    for result in results:
        key = json.dumps(result.settings, sort_keys=True)
        groups[key] = _joined(groups[key], result) if key in groups else result
    return list(groups.values())


def _joined(a: EvalResult, b: EvalResult) -> EvalResult:
    cells = {(c.run, c.task, c.length, c.window): c for c in (*b.cells, *a.cells)}
    depths = {(d.run, d.task, d.length, d.window, d.depth): d for d in (*b.depths, *a.depths)}
    bins = {
        (r["run"], r["window"], r.get("context"), r.get("text"), r["first"]): r
        for r in (*b.by_position, *a.by_position)
    }
    return replace(
        a,
        trained={**b.trained, **a.trained},
        origins={**b.origins, **a.origins},
        cells=list(cells.values()),
        depths=list(depths.values()),
        perplexity={**b.perplexity, **a.perplexity},
        by_position=list(bins.values()),
        tasks={**b.tasks, **a.tasks},
        notes=list(dict.fromkeys([*a.notes, *b.notes])),
    )
