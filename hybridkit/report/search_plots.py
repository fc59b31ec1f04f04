"""Figures of a study: the Pareto front, parallel coordinates, the importance of variables, training curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log2
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridkit.report.figure import label
from hybridkit.report.numbers import format_bytes
from hybridkit.report.plot_style import (
    COLORS,
    FAINT,
    GRID,
    PAGE,
    PAPER,
    by_last,
    counts,
    in_style,
    isolated,
    legend,
    logarithmic,
    new_figure,
    place_in_points,
    series,
    short_count,
    thinned,
)  # fmt: skip
from hybridkit.report.smooth import smooth
from hybridkit.search.results import Results, TrialCurve

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLEAR = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.4}  # behind text that lines pass
_FIRST_TWO = ", the first two; the Pareto front is that of all"
MOST_TICKS = 14  # values written beside an axis
TOP_CURVES = TOP_VARIABLES = 12  # trials whose curves have labels, and variables whose importance is shown


def study_figures(found: Results, curves: Sequence[TrialCurve]) -> Iterator[tuple[str, str, Figure]]:
    """Name, title and figure of each picture that has data."""
    if found.rows:
        more = {1: "", 2: "; the staircase is the Pareto front"}.get(len(found.objectives), _FIRST_TWO)
        yield "front", f"Trials by objective{more}", _front(found)
        yield (
            "parallel",
            "The choices of each trial; stronger lines are better in the first objective",
            _parallel(found),
        )
        yield "importance", "Share of the variance that each variable explains by itself", _importance(found)
    if curves:
        yield "curves", "Training loss, smoothed, mean over seeds", _curves(curves, found)


@in_style
def _front(found: Results) -> Figure:
    """The first two objectives against each other, or one against the trial; the front of two is a staircase."""
    figure = new_figure(PAGE, 3.4)
    axes = figure.add_subplot()
    names = list(found.objectives)
    alone = len(names) == 1
    x, y = ([row.trial.number if alone else row.means[1] for row in found.rows], [row.means[0] for row in found.rows])
    bars = [[row.half_intervals[place] or 0.0 for row in found.rows] for place in range(len(names))]
    xerr = None if alone or not any(bars[1]) else bars[1]
    look: dict[str, Any] = {"color": FAINT, "alpha": 0.7, "elinewidth": 0.8, "capsize": 1.5}
    axes.errorbar(x, y, bars[0] if any(bars[0]) else None, xerr, "o", label="trials", **look)
    best = sorted((a, b) for a, b, row in zip(x, y, found.rows, strict=True) if row.on_front)
    red, said = COLORS[1], "best" if alone else "Pareto front"
    if alone:
        counts(axes, "x")  # numbers of trials
        axes.plot(*zip(*best, strict=True), "o", color=red, label=said, zorder=4)
    else:
        if len(names) == 2:  # of more, points of the front are better in what is not drawn
            stair = _staircase(best, found.objectives[names[1]] == "max")
            axes.plot(*zip(*stair, strict=True), color=red, linewidth=1.1)
        axes.plot(*zip(*best, strict=True), "o", color=red, label=said, zorder=4)
    if alone:
        axes.set(xlabel="trial")
    else:
        _scale(axes, "x", names[1], x)
        axes.set(xlabel=_titled(names[1], found.objectives))
    _scale(axes, "y", names[0], y)
    axes.set(ylabel=_titled(names[0], found.objectives))
    _number(axes, found, list(zip(x, y, strict=True)))
    legend(figure, *axes.get_legend_handles_labels())
    return figure


def _number(axes: Axes, found: Results, points: Sequence[tuple[float, float]]) -> None:
    """The numbers of trials beside their points, where there is room; those of the front first."""
    taken: list[tuple[float, float]] = []
    for row, point in sorted(zip(found.rows, points, strict=True), key=lambda pair: not pair[0].on_front):
        text = str(row.trial.number)
        right, up = place_in_points(axes, point, (0.75, 0.8))
        free = all(abs(right - x) > 5 * len(text) or abs(up - y) > 7 for x, y in taken)
        if free and (row.on_front or len(found.rows) <= 20):
            axes.annotate(text, point, (3, 3), textcoords="offset points", fontsize=7)
            taken.append((right, up))


def _staircase(best: Sequence[tuple[float, float]], more: bool) -> Iterator[tuple[float, float]]:
    """The corners of a front: what a point offers holds as far as the next one. `more`: whether x is maximized."""
    for place, (a, b) in enumerate(best):
        if place:
            yield (best[place - 1][0], b) if more else (a, best[place - 1][1])
        yield a, b


def _titled(name: str, objectives: Mapping[str, str]) -> str:
    return f"{label(name)} ({'more' if objectives[name] == 'max' else 'less'} is better)"


def _scale(axes: Axes, which: str, name: str, values: Sequence[float]) -> None:
    """Bytes in KiB and MiB, other large numbers in k and M; logarithmic where they span more than a factor of ten."""
    from matplotlib.ticker import MultipleLocator

    write = _writer(name)
    if min(values) > 0 and max(values) > 10 * min(values):
        logarithmic(axes, which, base=4 if "bytes" in name else 10, write=write)
    elif max(map(abs, values)) >= 1000:
        axis = getattr(axes, f"{which}axis")
        axis.set_major_formatter(lambda value, _: write(value))
        if write is _bytes and max(values) > min(values):
            axis.set_major_locator(MultipleLocator(2 ** round(log2((max(values) - min(values)) / 5))))


def _writer(name: str) -> Callable[[float], str]:
    """How values of a metric are written."""
    return _bytes if "bytes" in name else short_count


def _bytes(value: float) -> str:
    return re.sub(r"[.]0+ ", " ", format_bytes(value))


@in_style
def _parallel(found: Results) -> Figure:
    """An axis for each variable and objective, a line for each trial."""
    columns = [[row.trial.params[name] for row in found.rows] for name in found.rows[0].trial.params]
    columns += [[row.means[place] for row in found.rows] for place in range(len(found.objectives))]
    names = [*found.rows[0].trial.params, *found.objectives]
    figure = new_figure(max(PAGE, 0.95 * len(names)), 3.6)
    axes = figure.add_subplot()
    heights = np.array([_heights(column) for column in columns])  # (axes, trials)
    strengths = np.linspace(1, 0.15, len(found.rows))
    for trial in reversed(range(len(found.rows))):
        axes.plot(heights[:, trial], color=COLORS[0], alpha=strengths[trial], linewidth=1.5)
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        for text, height in _ticks(name, column, heights[place]).items():
            axes.annotate(
                text, (place, height), (3, 0), textcoords="offset points", fontsize=7, va="center", bbox=_CLEAR
            )
    axes.set(xlim=(-0.1, len(names) - 0.4), ylim=(-0.06, 1.06))
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(names)), [label(name) for name in names], rotation=30, ha="right")
    axes.set_yticks([])
    axes.grid(axis="x", alpha=0.5)
    return figure


def _heights(column: Sequence[Any]) -> list[float]:
    """The heights of values on an axis from 0 to 1: numbers by value, others in alphabetical order.

    Numbers that span a factor of ten stand by their logarithm, as windows and learning rates do.
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        if min(column) > 0 and max(column) >= 10 * min(column):
            column = list(map(log2, column))
        low, high = min(column), max(column)
        return [(value - low) / (high - low) if high > low else 0.5 for value in column]
    order = sorted({str(value) for value in column})
    return [order.index(str(value)) / max(1, len(order) - 1) for value in column]


def _ticks(name: str, column: Sequence[Any], heights: Sequence[float]) -> dict[str, float]:
    """The values written beside an axis, where they are: the ends of numbers, choices unless they are too many."""
    places = {_tick(name, value): height for value, height in zip(column, heights, strict=True)}
    if isinstance(column[0], float) or len(places) > MOST_TICKS:
        return {text: height for text, height in places.items() if height in (0, 1)}
    return places


def _tick(name: str, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return _writer(name)(value) if number else label(str(value))


@in_style
def _importance(found: Results) -> Figure:
    largest = {name: max(shares[name] for shares in found.importance) for name in found.importance[0]}
    names = sorted(largest, key=lambda name: -largest[name])[:TOP_VARIABLES]
    figure = new_figure(PAGE, 0.9 + 0.26 * len(names))
    axes = figure.add_subplot()
    thick = 0.8 / len(found.objectives)
    for place, (objective, shares) in enumerate(zip(found.objectives, found.importance, strict=True)):
        axes.barh(
            np.arange(len(names)) + place * thick, [shares[name] for name in names], thick, label=label(objective),
            color=COLORS[place % len(COLORS)],
        )  # fmt: skip
    axes.set_yticks(np.arange(len(names)) + 0.4 - thick / 2, [label(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the variance (eta squared)")
    axes.grid(axis="y", visible=False)
    legend(figure, *axes.get_legend_handles_labels())
    return figure


@in_style
def _curves(curves: Sequence[TrialCurve], found: Results) -> Figure:
    """One line for each trial, the best in colour: the mean over seeds of every step of which all have a loss."""
    figure = new_figure(PAGE, 3.4)
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats a token)")
    order = {row.trial.number: row.place for row in found.rows}
    for number in sorted({curve.trial for curve in curves}, key=lambda trial: -order.get(trial, len(curves) + 1)):
        mine = [dict(zip(curve.steps, curve.losses, strict=True)) for curve in curves if curve.trial == number]
        steps = sorted(set.intersection(*map(set, mine)))
        if not steps:
            continue
        loss = np.mean([[losses[step] for step in steps] for losses in mine], axis=0)
        place = order.get(number, TOP_CURVES + 1)
        look = series(place - 1) | {"label": f"trial {number}", "zorder": 3}
        other = {"color": GRID, "linewidth": 0.8}
        drawn = list(thinned(list(zip(steps, smooth(loss), strict=True))))
        axes.plot(*zip(*drawn, strict=True), **(look if place <= TOP_CURVES else other), **isolated(drawn))
    counts(axes, "x")
    handles, names = axes.get_legend_handles_labels()
    lines: list[Any] = handles
    last = by_last([line.get_ydata()[-1] for line in lines])
    legend(figure, [handles[at] for at in last], [names[at] for at in last])
    return figure
