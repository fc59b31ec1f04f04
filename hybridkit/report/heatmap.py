"""Pictures of evaluations: heatmaps over length, depth and window; curves are drawn in eval_curves.py."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.eval_curves import draw_positions, draw_recall
from hybridkit.report.eval_tables import pivot, train_test, window_name, window_said
from hybridkit.report.figure import label, labels
from hybridkit.report.numbers import format_tokens
from hybridkit.report.plot_style import (
    COLUMN,
    PAGE,
    UNKNOWN,
    in_style,
    new_figure,
    text_color,
)  # fmt: skip

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CELL = (0.36, 0.19)  # inches
_FAR = "recall_far"
_TEST = "test window"


class _Panel(NamedTuple):
    """A grid of percentages; None where nothing was asked. `hidden`: (row, column) that the stack cannot see."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    grid: Sequence[Sequence[float | None]]
    hidden: Collection[tuple[int, int]] = ()


def eval_pictures(findings: EvalResult) -> Iterator[tuple[str, Figure]]:
    """The figures that the findings suffice for, each with the name of its file, without suffix."""
    needles = [cell for cell in findings.cells if not cell.task.startswith("recall_")]
    for task in dict.fromkeys(depth.task for depth in findings.depths):
        yield f"depth-{_file(task)}", _depths(findings, task)
    if len({cell.length for cell in needles}) > 1 and len({cell.window for cell in needles}) > 1:
        yield "length-window", _length_window(needles)
    if len({cell.run for cell in needles}) > 1:
        yield "train-test", _train_test(findings)
    if findings.by_position:
        yield "position", draw_positions(findings)
    if recall := [cell for cell in findings.cells if cell.task.startswith("recall_")]:
        yield "recall", draw_recall(recall)
    far = [cell for cell in findings.cells if cell.task == _FAR]
    if len({cell.length for cell in far}) > 1 and len({cell.window for cell in far}) > 1:
        yield "recall-window", _distance_window(far, findings.trained)


def _file(task: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in task).strip("_")


@in_style
def _depths(findings: EvalResult, task: str) -> Figure:
    """A panel for each run and window: share of right answers by length and depth."""
    chosen = [depth for depth in findings.depths if depth.task == task]
    places = list(dict.fromkeys((depth.run, depth.window) for depth in chosen))
    lengths, depths = sorted({d.length for d in chosen}), range(0, 100, 10)
    found = {(d.run, d.window, d.length, d.depth): 100 * d.found / d.asked for d in chosen}
    hidden = {(d.run, d.window, d.length, d.depth) for d in chosen if d.unseen == d.asked}
    names = labels(run for run, _ in places)
    panels = [
        _Panel(
            _title(names[run], window_said(window), len(names) > 1, len(places) > len(names)),
            [f"{depth} to {depth + 10}" for depth in depths],
            list(map(format_tokens, lengths)),
            [[found.get((run, window, length, depth)) for length in lengths] for depth in depths],
            [
                (down, across)
                for down, depth in enumerate(depths)
                for across, length in enumerate(lengths)
                if (run, window, length, depth) in hidden
            ],
        )
        for run, window in places
    ]
    return _heatmaps(panels, f"{label(task)}: right answers in %", "length", "depth of the needle in %")


def _title(run: str, rest: str, several: bool, apart: bool) -> str:
    """What tells a panel from the others."""
    return "\n".join([run] * several + [rest] * (apart or not several))


@in_style
def _length_window(needles: Sequence[CellScore]) -> Figure:
    """A panel for each run and task: score by length and test window."""
    tasks = dict.fromkeys(cell.task for cell in needles)
    names = labels(dict.fromkeys(cell.run for cell in needles))
    titles = {
        (task, run): _title(said, label(task), len(names) > 1, len(tasks) > 1)
        for task in tasks
        for run, said in names.items()
    }
    return _heatmaps(_windowed(needles, titles), "Needles: score in % by length and test window", "length", _TEST)


@in_style
def _distance_window(far: Sequence[CellScore], trained: Mapping[str, str]) -> Figure:
    """A panel for each run: far recall by gap and test window, with the window that it was trained with."""
    names = labels(dict.fromkeys(cell.run for cell in far))
    titles = {
        (_FAR, run): _title(said, f"trained with {label(trained.get(run, ''))}", len(names) > 1, bool(trained.get(run)))
        for run, said in names.items()
    }
    return _heatmaps(_windowed(far, titles), "Far recall in % by gap and test window", "gap in tokens", _TEST)


def _windowed(cells: Sequence[CellScore], titles: Mapping[tuple[str, str], str]) -> list[_Panel]:
    """A panel for each task and run that has cells: score by length and test window."""
    lengths, rows = pivot(cells)
    places = list(dict.fromkeys((task, run) for task, run, _ in rows))
    windows = list(dict.fromkeys(cell.window for cell in cells))
    panels = []
    for task, run in places:
        by_window = [rows.get((task, run, window), {}) for window in windows]
        grid = [[row[n].score if n in row else None for n in lengths] for row in by_window]
        hidden = [
            (down, across)
            for down, row in enumerate(by_window)
            for across, n in enumerate(lengths)
            if n in row and row[n].unseen == 1
        ]
        axes = list(map(window_name, windows)), list(map(format_tokens, lengths))
        panels.append(_Panel(titles[task, run], *axes, grid, hidden))
    return panels


@in_style
def _train_test(findings: EvalResult) -> Figure:
    runs, windows, means = train_test(findings)
    names = labels(runs)
    rows = [f"{names[run]}: {label(findings.trained.get(run) or '-')}" for run in runs]
    grid = [[means.get((run, window)) for window in windows] for run in runs]
    panel = _Panel("", rows, list(map(window_name, windows)), grid)
    return _heatmaps([panel], "Mean needle score in %", "test window", "run: trained with")


def _heatmaps(panels: Sequence[_Panel], title: str, x: str, y: str) -> Figure:
    """Panels beside each other, with one colour bar; cells that were not asked are grey."""
    down_cells, across_cells = len(panels[0].rows), len(panels[0].columns)
    names = 0.075 * max(len(row) for row in panels[0].rows) + 0.55
    wide = max(across_cells * _CELL[0], 0.062 * max(len(line) for p in panels for line in p.title.split("\n"))) + 0.12
    across = max(1, min(len(panels), int((PAGE - names - 0.6) / wide)))
    down = -(-len(panels) // across)
    lines = 0.16 * (panels[0].title.count("\n") + bool(panels[0].title))
    height = down * (down_cells * _CELL[1] + lines + 0.12) + 0.85
    figure = new_figure(max(names + 0.75 + across * wide, COLUMN), max(height, 1.5))
    figure.suptitle(title)
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.axis("off")
            continue
        image = _heat(axes, panels[place])
        axes.label_outer(remove_inner_ticks=True)
        axes.tick_params(labelbottom=place + across >= len(panels))
    hatched = "\nhatched: further back than the stack sees" if any(panel.hidden for panel in panels) else ""
    figure.supxlabel(f"{x}{hatched}", fontsize="medium")
    figure.supylabel(y, fontsize="medium")
    bar = figure.colorbar(image, ax=grid, ticks=[0, 50, 100], aspect=max(10, 7 * height), pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _heat(axes: Axes, panel: _Panel) -> AxesImage:
    """Percentages as colours, and as numbers in them."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colors = colormaps["viridis"].with_extremes(bad=(0, 0, 0, 0))  # the axes' own grey, which a dark page changes
    axes.set_facecolor(UNKNOWN)
    values = [[float("nan") if value is None else value for value in row] for row in panel.grid]
    image = axes.imshow(values, cmap=colors, vmin=0, vmax=100, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(panel.title, fontsize="medium")
    axes.set_xticks(range(len(panel.columns)), panel.columns)
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    for down, across in panel.hidden:
        place, lines = (across - 0.5, down - 0.5), text_color(colors((panel.grid[down][across] or 0) / 100))
        axes.add_patch(Rectangle(place, 1, 1, fill=False, hatch="////", edgecolor=lines, linewidth=0))
    for down, row in enumerate(panel.grid):
        for across, value in enumerate(row):
            if value is not None:
                cell = colors(value / 100)
                look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.8, "color": text_color(cell)}
                clear = {"facecolor": cell, "edgecolor": "none", "pad": 0.8} if (down, across) in panel.hidden else None
                axes.text(across, down, f"{value:.0f}", bbox=clear, **look)
    return image
