"""The results of an evaluation as tables: in the terminal, and on the pages of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.console import Console
from hybridkit.report.markup import in_markdown
from hybridkit.report.page import TextTable, print_table

HELD_OUT, BY_POSITION, ORIGINS = "held-out", "Loss by position", "What the figures come from: first digits of hashes"
GROUPS = {name: tuple(f"{name}_{n}" for n in (1, 2, 3)) for name in ("niah_single", "niah_multikey")}


def tables(result: EvalResult) -> list[TextTable]:
    """Everything that was found, in tables; none for what was not asked."""
    made = [
        _perplexity(result),
        *_positions(result),
        *_scores(result.cells),
        _matrix(result),
        *_harness(result),
        _origins(result),
    ]
    return [table for table in made if table.rows]


def print_eval_result(result: EvalResult) -> None:
    """Print the tables, and what a reader must know to compare them."""
    console = Console()
    for table in tables(result):
        print_table(console, table)
    for note in notes(result):
        console.print(note)


def markdown_pages(history: Sequence[EvalResult]) -> str:
    """The tables of all evaluations, newest first, as a Markdown document."""
    return "\n\n".join(["# Evaluation", "\n\n# Earlier\n\n".join(map(_markdown, history))]) + "\n"


def _markdown(result: EvalResult) -> str:
    return "\n\n".join([*(table.markdown() for table in tables(result)), *map(in_markdown, notes(result))])


def notes(result: EvalResult) -> list[str]:
    """What a reader must know to compare figures."""
    return [note for note in (*result.notes, haystack_note(result)) if note]


def haystack_note(result: EvalResult) -> str:
    """Which text the essays are, for scores on different ones do not compare; empty where none was needed."""
    used = result.settings["haystack"]
    return (
        f"Haystack of essays: {used['name']}, digest {used['digest']}. Scores on others do not compare." if used else ""
    )


def window_name(window: int | None) -> str:
    """A test-time window in words."""
    return "own" if window is None else f"{window:,}"


def window_said(window: int | None) -> str:
    """The same beside other words: `own window`, `window 128`."""
    return "own window" if window is None else f"window {window_name(window)}"


def pivot(cells: Sequence[CellScore]) -> tuple[list[int], dict[tuple[str, str, int | None], dict[int, CellScore]]]:
    """All lengths in order, and for each (task, run, window) the cells by length."""
    rows: dict[tuple[str, str, int | None], dict[int, CellScore]] = {}
    for cell in cells:
        rows.setdefault((cell.task, cell.run, cell.window), {})[cell.length] = cell
    return sorted({cell.length for cell in cells}), rows


def with_group_means(cells: Sequence[CellScore]) -> list[CellScore]:
    """The cells, and after them the means over three sub-tasks that the paper reports; those have no interval."""
    found: list[CellScore] = list(cells)
    for group, members in GROUPS.items():
        places = dict.fromkeys((cell.run, cell.length, cell.window) for cell in cells)
        for run, length, window in places:
            parts = [c for c in cells if c.task in members and (c.run, c.length, c.window) == (run, length, window)]
            if len(parts) == len(members):
                mean = sum(c.score for c in parts) / len(parts)
                count, hidden = sum(c.samples for c in parts), sum(c.unseen for c in parts) / len(parts)
                found.append(CellScore(run, f"{group} (mean of 3)", length, window, count, mean, mean, mean, hidden))
    return found


def _perplexity(result: EvalResult) -> TextTable:
    columns = ["run", "trained with", "window", "text"]
    columns += ["perplexity", "nats a token", "bits a byte", "tokens", "tokens/s"]
    rows = []
    for run, losses in result.perplexity.items():
        for loss in losses:
            shown = [_number(loss[name], 4) for name in ("perplexity", "loss", "bits_per_byte")]
            counts = [f"{loss['tokens']:,}", _number(loss["tokens_per_second"], 0)]
            place = [run, result.trained.get(run) or "-", window_name(loss["window"]), text_name(loss)]
            rows.append([*place, *shown, *counts])
    return TextTable("Held-out text", columns, rows, heads=4)


def _positions(result: EvalResult) -> Iterator[TextTable]:
    """Loss by the number of tokens read before, and what the context before the training length saves.

    The windows of a run on a text are columns of one table: they have the same targets.
    """
    places: dict[tuple[object, ...], dict[int | None, list[dict[str, Any]]]] = {}
    for (run, window, context, text), rows in position_bins(result).items():
        sizes = tuple((row["first"], row["last"], row["tokens"]) for row in rows)
        places.setdefault((run, text, context, sizes), {})[window] = rows
    for (name, source, *_), windows in places.items():
        gains = any(row["gain"] is not None for rows in windows.values() for row in rows)
        columns = ["tokens before", "targets"]
        shown = [[_span(row), f"{row['tokens']:,}"] for row in next(iter(windows.values()))]
        for window, rows in windows.items():
            at = f", {window_said(window)}" if len(windows) > 1 else ""
            columns += [f"nats{at}", *([f"gain{at}"] if gains else [])]
            for cells, row in zip(shown, rows, strict=True):
                cells += [_number(row["loss"], 4), *([_number(row["gain"], 4)] if gains else [])]
        alone = f", {window_said(next(iter(windows)))}" if len(windows) == 1 else ""
        said = "; nats a token" + ("; gain: what carried context saves" if gains else "")
        yield TextTable(f"{BY_POSITION}: {name}{alone}, {source} text{said}", columns, shown, heads=2)


def position_bins(result: EvalResult) -> dict[tuple[str, int | None, int, str], list[dict[str, Any]]]:
    """The loss by position of each run, window, length of rows, and text."""
    bins: dict[tuple[str, int | None, int, str], list[dict[str, Any]]] = {}
    for found in result.by_position:
        key = (found["run"], found["window"], found.get("context", 0), text_name(found))
        bins.setdefault(key, []).append(found)
    return bins


def text_name(row: Mapping[str, Any]) -> str:
    """Which text a loss was measured on: a file that was named, held out in training, other text, or unknown."""
    if source := row.get("source"):
        return str(source)
    same = row.get("same_text")
    return "unknown" if same is None else HELD_OUT if same else "other"


def _origins(result: EvalResult) -> TextTable:
    columns = ["run", "step", "weights", "tokenizer", "trained on", "model", "plug-ins", "fingerprint"]
    rows = []
    for run, origin in result.origins.items():
        code = ", ".join(f"{name} {str(digest)[:12]}" for name, digest in (origin.get("code") or {}).items())
        said = [str(origin.get(name, "-"))[:12] for name in ("weights", "tokenizer", "trained_text", "model")]
        rows.append([run, str(origin.get("step", "-")), *said, code or "-", str(origin.get("fingerprint"))[:12]])
    return TextTable(ORIGINS, columns, rows)


def _scores(cells: Sequence[CellScore]) -> Iterator[TextTable]:
    """Needles over lengths, recall over distances: scores in percent with their intervals."""
    kinds = {"Needles: score in % by length": False, "Recall: accuracy in % by distance in tokens": True}
    for title, wanted in kinds.items():
        chosen = [cell for cell in cells if cell.task.startswith("recall_") == wanted]
        lengths, rows = pivot(with_group_means(chosen))
        shown = [
            [task, run, window_name(window), *(_interval(found.get(length)) for length in lengths)]
            for (task, run, window), found in rows.items()
        ]
        yield TextTable(title, ["task", "run", "window", *(f"{length:,}" for length in lengths)], shown, heads=3)


def train_test(result: EvalResult) -> tuple[list[str], list[int | None], dict[tuple[str, int | None], float]]:
    """Runs, test windows, and the mean needle score of each pair over tasks and lengths."""
    needles = [cell for cell in result.cells if not cell.task.startswith("recall_")]
    scores: dict[tuple[str, int | None], list[float]] = {}
    for cell in needles:
        scores.setdefault((cell.run, cell.window), []).append(cell.score)
    runs, windows = list(dict.fromkeys(c.run for c in needles)), list(dict.fromkeys(c.window for c in needles))
    return runs, windows, {place: sum(found) / len(found) for place, found in scores.items()}


def _matrix(result: EvalResult) -> TextTable:
    runs, windows, means = train_test(result)
    rows = [[run, result.trained.get(run) or "-", *(_number(means.get((run, w)), 1) for w in windows)] for run in runs]
    title = "Train window by test window: mean needle score in %"
    columns = ["run", "trained with", *(f"test {window_name(w)}" for w in windows)]
    return TextTable(title, columns, rows if len(runs) * len(windows) > 1 else [], heads=2)


def _harness(result: EvalResult) -> Iterator[TextTable]:
    for run, tasks in result.tasks.items():
        rows = [[task, name, _number(value, 4)] for task, found in tasks.items() for name, value in found.items()]
        yield TextTable(f"Harness: {run}", ["task", "metric", "value"], rows)


def _span(row: Mapping[str, Any]) -> str:
    return f"{row['first']:,}" if row["first"] == row["last"] else f"{row['first']:,} to {row['last']:,}"


def _interval(cell: CellScore | None) -> str:
    if cell is None:
        return "-"
    mark = "*" if cell.unseen else ""
    score = f"{cell.score:.1f} [{cell.low:.1f}, {cell.high:.1f}]" if cell.low < cell.high else f"{cell.score:.1f}"
    return score + mark


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.0f}" if digits == 0 else f"{value:z.{digits}f}"
