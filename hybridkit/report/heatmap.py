"""Pictures of evaluations: heatmaps over length, depth and window, and curves over position and distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.eval import pivot, position_bins, train_test, window_name
from hybridkit.report.figure import label, labels, logarithmic

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 3  # beside each other
_Grid = Sequence[Sequence[float | None]]


def eval_pictures(findings: EvalResult) -> Iterator[tuple[str, Figure]]:
    """The figures that the findings suffice for, each with the name of its file, without suffix."""
    needles = [cell for cell in findings.cells if not cell.task.startswith("recall_")]
    for task in dict.fromkeys(depth.task for depth in findings.depths):
        yield f"depth-{_file(task)}", _depths(findings, task)
    if len({cell.length for cell in needles}) > 1 and len({cell.window for cell in needles}) > 1:
        yield "length-window", _length_window(needles)
    runs, windows, means = train_test(findings)
    if len(runs) > 1:
        rows = [f"{label(findings.trained.get(run) or '-')}\n{name}" for run, name in labels(runs).items()]
        grid = [[means.get((run, window)) for window in windows] for run in runs]
        figure, (axes,) = _panels(1, "Mean needle score in % by train and test window")
        _heat(axes, grid, rows, [window_name(window) for window in windows], "", "test window", "trained with")
        yield "train-test", figure
    if findings.by_position:
        yield "position", _positions(findings)
    if recall := [cell for cell in findings.cells if cell.task.startswith("recall_")]:
        yield "recall", _curves(recall)


def _file(task: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in task).strip("_")


def _depths(findings: EvalResult, task: str) -> Figure:
    """A panel for each run and window: share of right answers by length and depth."""
    chosen = [depth for depth in findings.depths if depth.task == task]
    places = list(dict.fromkeys((depth.run, depth.window) for depth in chosen))
    lengths, depths = sorted({d.length for d in chosen}), range(0, 100, 10)
    found = {(d.run, d.window, d.length, d.depth): 100 * d.found / d.asked for d in chosen}
    names = labels(run for run, _ in places)
    figure, panels = _panels(len(places), f"{label(task)}: right answers in %")
    for axes, (run, window) in zip(panels, places, strict=True):
        grid = [[found.get((run, window, length, depth)) for length in lengths] for depth in depths]
        title = f"{names[run]}\nwindow {window_name(window)}"
        _heat(axes, grid, [str(d) for d in depths], [f"{n:,}" for n in lengths], title, "length", "depth in %")
    return figure


def _length_window(needles: Sequence[CellScore]) -> Figure:
    """A panel for each run and task: score by length and test window."""
    lengths, rows = pivot(needles)
    places = list(dict.fromkeys((task, run) for task, run, _ in rows))
    windows = list(dict.fromkeys(cell.window for cell in needles))
    labelled = labels(run for _, run in places)
    figure, panels = _panels(len(places), "Score in % by length and test window")
    for axes, (task, run) in zip(panels, places, strict=True):
        by_window = [rows.get((task, run, window), {}) for window in windows]
        grid = [[row[n].score if n in row else None for n in lengths] for row in by_window]
        names = [window_name(window) for window in windows]
        _heat(
            axes, grid, names, [f"{n:,}" for n in lengths], f"{labelled[run]}\n{label(task)}", "length", "test window"
        )
    return figure


def _positions(findings: EvalResult) -> Figure:
    figure, (axes,) = _panels(1, "Loss by position")
    bins = position_bins(findings)
    names = labels(run for run, *_ in bins)
    for (run, window, _, text), rows in bins.items():
        name = f"{names[run]}, window {window_name(window)}, {text} text"
        axes.plot([row["first"] for row in rows], [row["loss"] for row in rows], "o-", markersize=3, label=name)
    return _labelled(figure, axes, "tokens before", "nats a token")


def _curves(cells: Sequence[CellScore]) -> Figure:
    """Accuracy with its interval by distance, a curve for each task, run and window."""
    _, rows = pivot(cells)
    figure, (axes,) = _panels(1, "Recall by distance")
    names = labels(run for _, run, _ in rows)
    for (task, run, window), found in rows.items():
        chosen = [found[length] for length in sorted(found)]
        name = f"{label(task.removeprefix('recall_'))}: {names[run]}, window {window_name(window)}"
        places = [max(cell.length, 0.5) for cell in chosen]  # a gap of 0 has no place on a logarithmic axis
        axes.plot(places, [cell.score for cell in chosen], "o-", markersize=3, label=name)
        axes.fill_between(places, [c.low for c in chosen], [c.high for c in chosen], alpha=0.15)
    axes.set_ylim(0, 102)
    return _labelled(figure, axes, "distance in tokens", "accuracy in %")


def _labelled(figure: Figure, axes: Axes, x: str, y: str) -> Figure:
    axes.set(xlabel=x, ylabel=y)
    logarithmic(axes, "x")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _panels(count: int, title: str) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    across = min(count, PANELS)
    down = -(-count // across)
    figure = Figure(figsize=(max(5.0 * across, 6.5), 3.8 * down + 0.4), layout="constrained")
    figure.suptitle(title)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in panels[count:]:
        unused.axis("off")
    return figure, panels[:count]


def _heat(axes: Axes, grid: _Grid, rows: Sequence[str], columns: Sequence[str], title: str, x: str, y: str) -> None:
    """Percentages as colours, and as numbers in them; nothing where there are none."""
    axes.imshow(
        [[float("nan") if v is None else v for v in row] for row in grid],
        cmap="RdYlGn",
        vmin=0,
        vmax=100,
        aspect="auto",
    )
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize="small")
    axes.set_xticks(range(len(columns)), columns, fontsize="small")
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    for down, row in enumerate(grid):
        for across, value in enumerate(row):
            if value is not None:
                axes.text(across, down, f"{value:.0f}", ha="center", va="center", fontsize="x-small")
