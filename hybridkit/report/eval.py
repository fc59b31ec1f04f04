"""Evaluation for people: progress with an ETA, tables in the terminal, the same tables as Markdown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.console import Console, Progress
from hybridkit.report.console import Table as Drawn
from hybridkit.report.markup import in_markdown, markdown_table
from hybridkit.system.terminal import one_line, say

GROUPS = {name: tuple(f"{name}_{n}" for n in (1, 2, 3)) for name in ("niah_single", "niah_multikey")}
LINE_EVERY = 10.0  # between plain lines

Watch = Callable[[str, int, int], None]


class Table(NamedTuple):
    """A table of text: its title, its columns, its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@contextmanager
def watching() -> Iterator[Watch]:
    """Something that shows what is done on standard error: a bar in a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with Progress(stderr=True, transient=True) as progress:
        place = progress.add_task("", total=None, figures="")
        shown = ""

        def watch(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown:
                progress.reset(place, description=what)
                shown = what
            progress.update(place, completed=done, total=total)

        yield watch


class _Lines:
    """What begins and what ends, and in between a line every few seconds."""

    def __init__(self) -> None:
        self._what, self._begin, self._said, self._first = "", 0.0, 0.0, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._begin, self._said, self._first = what, now, 0.0, done
        if done == total or now - self._said >= LINE_EVERY:
            self._said = now
            fresh = done - self._first
            left = f", ETA {timedelta(seconds=round((now - self._begin) / fresh * (total - done)))}" if fresh else ""
            say(f"{what}: {done}/{total}{left}", file=sys.stderr)


def tables(findings: EvalResult) -> list[Table]:
    """Everything that was found, in tables; none for what was not asked."""
    made = [
        _perplexity(findings),
        *_positions(findings),
        *_scores(findings.cells),
        _matrix(findings),
        *_harness(findings),
        _origins(findings),
    ]
    return [table for table in made if table.rows]


def print_findings(findings: EvalResult) -> None:
    """Print the tables, and which haystack was used."""
    console = Console()
    for table in tables(findings):
        drawn = Drawn(*table.columns, right=slice(0))
        for row in table.rows:
            drawn.add_row(*row)
        console.print(one_line(table.title), drawn, "", sep="\n")
    for note in notes(findings):
        console.print(note)


def markdown(history: Sequence[EvalResult]) -> str:
    """The tables of all evaluations, newest first, as a Markdown document."""
    return "\n\n".join(["# Evaluation", "\n\n# Earlier\n\n".join(map(_markdown, history))]) + "\n"


def _markdown(findings: EvalResult) -> str:
    parts = []
    for table in tables(findings):
        parts.append(f"## {in_markdown(table.title)}\n\n{markdown_table(table.columns, table.rows)}")
    return "\n\n".join([*parts, *map(in_markdown, notes(findings))])


def notes(findings: EvalResult) -> list[str]:
    """What a reader must know to compare figures."""
    return [note for note in (*findings.notes, haystack_note(findings)) if note]


def haystack_note(findings: EvalResult) -> str:
    """Which text the essays are, for scores on different ones do not compare; empty where none was needed."""
    used = findings.settings["haystack"]
    return (
        f"Haystack of essays: {used['name']}, digest {used['digest']}. Scores on others do not compare." if used else ""
    )


def window_name(window: int | None) -> str:
    """A test-time window in words."""
    return "own" if window is None else f"{window:,}"


def pivot(cells: Sequence[CellScore]) -> tuple[list[int], dict[tuple[str, str, int | None], dict[int, CellScore]]]:
    """All lengths in order, and for each (task, run, window) the cells by length."""
    rows: dict[tuple[str, str, int | None], dict[int, CellScore]] = {}
    for cell in cells:
        rows.setdefault((cell.task, cell.run, cell.window), {})[cell.length] = cell
    return sorted({cell.length for cell in cells}), rows


def grouped(cells: Sequence[CellScore]) -> list[CellScore]:
    """The cells, and after them the means over three sub-tasks that the paper reports; those have no interval."""
    found: list[CellScore] = list(cells)
    for group, members in GROUPS.items():
        places = dict.fromkeys((cell.run, cell.length, cell.window) for cell in cells)
        for run, length, window in places:
            parts = [c for c in cells if c.task in members and (c.run, c.length, c.window) == (run, length, window)]
            if len(parts) == len(members):
                mean = sum(c.score for c in parts) / len(parts)
                count = sum(c.samples for c in parts)
                found.append(CellScore(run, f"{group} (mean of 3)", length, window, count, mean, mean, mean))
    return found


def _perplexity(findings: EvalResult) -> Table:
    columns = ["run", "trained with", "window", "text"]
    columns += ["perplexity", "nats a token", "bits a byte", "tokens", "tokens/s"]
    rows = []
    for run, losses in findings.perplexity.items():
        for loss in losses:
            shown = [_number(loss[name], 4) for name in ("perplexity", "loss", "bits_per_byte")]
            counts = [f"{loss['tokens']:,}", _number(loss["tokens_per_second"], 0)]
            place = [run, findings.trained.get(run) or "-", window_name(loss["window"]), text_name(loss)]
            rows.append([*place, *shown, *counts])
    return Table("Held-out text", columns, rows)


def _positions(findings: EvalResult) -> Iterator[Table]:
    """Loss by the number of tokens read before, and what the context before the training length saves."""
    for (run, window, _, text), rows in position_bins(findings).items():
        shown = [
            [
                _span(row),
                f"{row['tokens']:,}",
                _number(row["loss"], 4),
                _number(row["gain"], 4),
            ]
            for row in rows
        ]
        columns = ["tokens before", "targets", "nats a token", "gain of carried context"]
        yield Table(f"Loss by position: {run}, window {window_name(window)}, {text} text", columns, shown)


def position_bins(findings: EvalResult) -> dict[tuple[str, int | None, int, str], list[dict[str, Any]]]:
    """The loss by position of each run, window, length of rows, and text."""
    bins: dict[tuple[str, int | None, int, str], list[dict[str, Any]]] = {}
    for found in findings.by_position:
        key = (found["run"], found["window"], found.get("context", 0), text_name(found))
        bins.setdefault(key, []).append(found)
    return bins


def text_name(row: Mapping[str, Any]) -> str:
    """Whether a figure is of text that the run held out in training."""
    same = row.get("same_text")
    return "unknown" if same is None else "held-out" if same else "other"


def _origins(findings: EvalResult) -> Table:
    columns = ["run", "step", "weights", "tokenizer", "trained on", "model", "plug-ins", "fingerprint"]
    rows = []
    for run, origin in findings.origins.items():
        code = ", ".join(f"{name} {str(digest)[:12]}" for name, digest in (origin.get("code") or {}).items())
        said = [str(origin.get(name, "-"))[:12] for name in ("weights", "tokenizer", "trained_text", "model")]
        rows.append([run, str(origin.get("step", "-")), *said, code or "-", str(origin.get("fingerprint"))[:12]])
    return Table("What the figures come from: first digits of hashes", columns, rows)


def _scores(cells: Sequence[CellScore]) -> Iterator[Table]:
    """Needles over lengths, recall over distances: scores in percent with their intervals."""
    kinds = {"Needles: score in % by length": False, "Recall: accuracy in % by distance in tokens": True}
    for title, wanted in kinds.items():
        chosen = [cell for cell in cells if cell.task.startswith("recall_") == wanted]
        lengths, rows = pivot(grouped(chosen))
        shown = [
            [task, run, window_name(window), *(_interval(found.get(length)) for length in lengths)]
            for (task, run, window), found in rows.items()
        ]
        yield Table(title, ["task", "run", "window", *(f"{length:,}" for length in lengths)], shown)


def train_test(findings: EvalResult) -> tuple[list[str], list[int | None], dict[tuple[str, int | None], float]]:
    """Runs, test windows, and the mean needle score of each pair over tasks and lengths."""
    needles = [cell for cell in findings.cells if not cell.task.startswith("recall_")]
    scores: dict[tuple[str, int | None], list[float]] = {}
    for cell in needles:
        scores.setdefault((cell.run, cell.window), []).append(cell.score)
    runs, windows = list(dict.fromkeys(c.run for c in needles)), list(dict.fromkeys(c.window for c in needles))
    return runs, windows, {place: sum(found) / len(found) for place, found in scores.items()}


def _matrix(findings: EvalResult) -> Table:
    runs, windows, means = train_test(findings)
    rows = [
        [run, findings.trained.get(run) or "-", *(_number(means.get((run, w)), 1) for w in windows)] for run in runs
    ]
    title = "Train window by test window: mean needle score in %"
    columns = ["run", "trained with", *(f"test {window_name(w)}" for w in windows)]
    return Table(title, columns, rows if len(runs) * len(windows) > 1 else [])


def _harness(findings: EvalResult) -> Iterator[Table]:
    for run, tasks in findings.tasks.items():
        rows = [[task, name, _number(value, 4)] for task, found in tasks.items() for name, value in found.items()]
        yield Table(f"Harness: {run}", ["task", "metric", "value"], rows)


def _span(row: Mapping[str, Any]) -> str:
    return f"{row['first']:,}" if row["first"] == row["last"] else f"{row['first']:,} to {row['last']:,}"


def _interval(cell: CellScore | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.score:.1f} [{cell.low:.1f}, {cell.high:.1f}]" if cell.low < cell.high else f"{cell.score:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}" if digits == 0 else f"{value:.{digits}f}"
