"""Figures of a study: the Pareto front, parallel coordinates, the importance of variables, training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridkit.report.figure import label, logarithmic
from hybridkit.report.smooth import smooth
from hybridkit.search.results import Results, TrialCurve

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_CURVES = TOP_VARIABLES = 12  # trials whose curves have labels, and variables whose importance is shown


def study_figures(found: Results, curves: Sequence[TrialCurve]) -> Iterator[tuple[str, str, Figure]]:
    """Name, title and figure of each picture that has data."""
    if found.rows:
        yield "front", "Trials by objective; a line joins the Pareto front", _front(found)
        yield "parallel", "The choices of each trial; darker is better in the first objective", _parallel(found)
        yield "importance", "Share of the variance that each variable explains by itself", _importance(found)
    if curves:
        yield "curves", "Training loss, smoothed, mean over seeds", _curves(curves, found)


def _new(width: float = 8, height: float = 4.5) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _front(found: Results) -> Figure:
    """The first two objectives against each other; a single objective against the trial's number."""
    figure, axes = _new()
    names = list(found.objectives)
    alone = len(names) == 1
    x, y = ([row.trial.number if alone else row.means[1] for row in found.rows], [row.means[0] for row in found.rows])
    bars = [row.half_intervals[0] or 0.0 for row in found.rows]
    axes.errorbar(x, y, bars, fmt="o", color="tab:gray", alpha=0.6, capsize=2)
    best = sorted((a, b) for a, b, row in zip(x, y, found.rows, strict=True) if row.on_front)
    axes.plot(*zip(*best, strict=True), "o-", color="tab:red", label="best" if alone else "Pareto front")
    for row, a, b in zip(found.rows, x, y, strict=True):
        axes.annotate(str(row.trial.number), (a, b), (4, 4), textcoords="offset points", fontsize=7)
    if not alone and min(x) > 0 and max(x) > 10 * min(x):
        logarithmic(axes, "x")
    axes.set(xlabel="trial" if alone else f"{names[1]} ({found.objectives[names[1]]})")
    axes.set(ylabel=f"{names[0]} ({found.objectives[names[0]]})")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _parallel(found: Results) -> Figure:
    """An axis for each variable and objective, a line for each trial."""
    columns = [[row.trial.params[name] for row in found.rows] for name in found.rows[0].trial.params]
    columns += [[row.means[place] for row in found.rows] for place in range(len(found.objectives))]
    names = [*found.rows[0].trial.params, *found.objectives]
    figure, axes = _new(max(8, 1.1 * len(names)))
    heights = np.array([_heights(column) for column in columns])  # (axes, trials)
    shades = np.linspace(0.95, 0.15, len(found.rows))
    from matplotlib import colormaps

    for trial in reversed(range(len(found.rows))):
        axes.plot(heights[:, trial], color=colormaps["Blues"](shades[trial]), linewidth=1.5)
    for place, column in enumerate(columns):
        for text, height in {_tick(value): h for value, h in zip(column, heights[place], strict=True)}.items():
            if not isinstance(column[0], float) or height in (0, 1):
                axes.annotate(text, (place, height), (3, 0), textcoords="offset points", fontsize=7)
    axes.set_xticks(range(len(names)), [label(name) for name in names], rotation=30, ha="right")
    axes.set_yticks([])
    axes.grid(axis="x", alpha=0.5)
    return figure


def _heights(column: Sequence[Any]) -> list[float]:
    """The heights of values on an axis from 0 to 1: numbers by value, others in alphabetical order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        low, high = min(column), max(column)
        return [(value - low) / (high - low) if high > low else 0.5 for value in column]
    order = sorted({str(value) for value in column})
    return [order.index(str(value)) / max(1, len(order) - 1) for value in column]


def _tick(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else label(str(value))


def _importance(found: Results) -> Figure:
    largest = {name: max(shares[name] for shares in found.importance) for name in found.importance[0]}
    names = sorted(largest, key=lambda name: -largest[name])[:TOP_VARIABLES]
    figure, axes = _new(height=1 + 0.35 * len(names))
    thick = 0.8 / len(found.objectives)
    for place, (objective, shares) in enumerate(zip(found.objectives, found.importance, strict=True)):
        axes.barh(
            np.arange(len(names)) + place * thick, [shares[name] for name in names], thick, label=label(objective)
        )
    axes.set_yticks(np.arange(len(names)) + 0.4 - thick / 2, [label(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the variance (eta squared)")
    figure.legend(loc="outside upper center", ncols=len(found.objectives))
    return figure


def _curves(curves: Sequence[TrialCurve], found: Results) -> Figure:
    """One line for each trial, the best in colour: the mean over seeds up to the step that all have reached."""
    figure, axes = _new()
    order = {row.trial.number: row.place for row in found.rows}
    for number in sorted({curve.trial for curve in curves}, key=lambda trial: -order.get(trial, len(curves) + 1)):
        mine = [curve for curve in curves if curve.trial == number]
        length = min(len(curve.losses) for curve in mine)
        loss = np.mean([curve.losses[:length] for curve in mine], axis=0)
        top = order.get(number, TOP_CURVES + 1) <= TOP_CURVES
        style = {"label": f"trial {number}"} if top else {"color": "lightgray", "linewidth": 0.8}
        axes.plot(mine[0].steps[:length], smooth(loss), **style)
    axes.set(xlabel="step", ylabel="loss (nats per target)")
    axes.grid(alpha=0.3)
    if order:
        axes.legend(fontsize=7, ncols=2)
    return figure
