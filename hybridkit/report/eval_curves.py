"""Curves of evaluations: loss by position, and recall by distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import TYPE_CHECKING, Any

from hybridkit.evaluation.request import CellScore, EvalResult
from hybridkit.report.eval_tables import HELD_OUT, pivot, position_bins, text_name, window_said
from hybridkit.report.figure import headline, label, labels, told_apart
from hybridkit.report.layered import plot_layered
from hybridkit.report.plot_style import NO_TOKENS, PAGE, by_last, in_style, legend, new_figure, series, token_axis

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS = {"recall_far": "gap in tokens", "recall_near": "tokens back to the key's last occurrence"}
TITLES = {"recall_far": "Far recall", "recall_near": "Near recall", "loss_by_position": "Loss by position"}
FEW = 100  # targets, below which a bin of positions is joined with the next
SAME = 1.5  # percent, by which points that lie on one another differ at most


@in_style
def draw_positions(findings: EvalResult) -> Figure:
    """Loss by the tokens read before; bins with few targets are joined, since their means are noisy."""
    bins = position_bins(findings)
    names, texts = labels(run for run, *_ in bins), _texts(findings)
    said = [
        (names[run], window_said(window), texts[rows[0].get("text"), text])
        for (run, window, _, text), rows in bins.items()
    ]
    shared, apart = told_apart(said)
    figure = new_figure(PAGE, 3.0)
    axes = figure.add_subplot(xlabel="tokens before (middle of a bin)", ylabel="nats a token")
    axes.set_title(headline("Loss by position", shared))
    handles, lasts = [], []
    for place, (name, rows) in enumerate(zip(apart, bins.values(), strict=True)):
        joined = join_bins([(row["first"], row["last"], row["tokens"], row["loss"]) for row in rows])
        handles += axes.plot(*zip(*joined, strict=True), marker="o", label=name or shared, **series(place))
        lasts.append(joined[-1][1])
    token_axis(axes)
    if len(handles) > 1:
        order = by_last(lasts)
        legend(figure, [handles[at] for at in order], [apart[at] for at in order])
    return figure


def _texts(findings: EvalResult) -> dict[tuple[Any, str], str]:
    """How a text is called, by its digest and by what it is for a run: held out by one, it is the same for others."""
    names: dict[Any, str] = {}
    found = [(row.get("text"), text_name(row)) for row in findings.by_position]
    for digest, name in found:
        names[digest] = name if name == HELD_OUT else names.get(digest, name)
    return {(digest, name): f"{label(names[digest] if digest else name)} text" for digest, name in found}


def join_bins(rows: Sequence[tuple[int, int, int, float]]) -> list[tuple[float, float]]:
    """Middle and mean loss of bins (first and last position, targets, loss); those of few targets join a neighbour.

    The middle is the geometric mean of positions, by the targets there. The last bin is often a part of one: it joins
    where it has less than a quarter of the targets before it.
    """
    joined: list[tuple[int, float, float]] = []  # targets, and the means of the logarithm of positions and of the loss
    ordered = sorted(rows)
    for place, (first, last, targets, loss) in enumerate(ordered):
        middle = log(first * last) / 2
        part = place == len(ordered) - 1 and joined and 4 * targets < joined[-1][0]
        if joined and (joined[-1][0] < FEW or targets < FEW or part):
            count, before, mean = joined.pop()
            share = targets / (count + targets)
            targets, middle, loss = count + targets, before + share * (middle - before), mean + share * (loss - mean)
        joined.append((targets, middle, loss))
    return [(exp(middle), loss) for _, middle, loss in joined]


@in_style
def draw_recall(cells: Sequence[CellScore]) -> Figure:
    """Accuracy with its interval by distance: a panel for each task, a curve for each run and window."""
    _, rows = pivot(cells)
    tasks = list(dict.fromkeys(task for task, *_ in rows))
    runs = list(dict.fromkeys((run, window) for _, run, window in rows))
    names = labels(run for run, _ in runs)
    shared, apart = told_apart([(names[run], window_said(window)) for run, window in runs])
    figure = new_figure(PAGE, 3.0)
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    handles: dict[str, Any] = {}
    lasts: dict[str, float] = {}
    for task, axes in zip(tasks, panels, strict=True):
        drawn = [place for place, of in enumerate(runs) if (task, *of) in rows]
        found = {apart[place]: rows[task, *runs[place]] for place in drawn}
        handles |= _recall(axes, found, [series(place) for place in drawn])
        lasts |= {name: by_length[max(by_length)].score for name, by_length in found.items()}
        axes.set(xlabel=AXIS.get(task, "distance in tokens"), ylim=(-4, 104))
        axes.set_title(headline(TITLES.get(task, task), shared, panels=len(tasks)))
    panels[0].set_ylabel("right answers in %")
    if len(handles) > 1:
        order = [list(lasts)[at] for at in by_last(list(lasts.values()))]
        legend(figure, [handles[name] for name in order], order, below=len(tasks) > 1)
    return figure


def _recall(axes: Axes, found: Mapping[str, Mapping[int, CellScore]], looks: Sequence[Any]) -> dict[str, Any]:
    """The curves of a panel by their names, with their intervals as bands."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for (name, by_length), look in zip(found.items(), looks, strict=True):
        cells = [by_length[length] for length in sorted(by_length)]
        places = [cell.length or NO_TOKENS for cell in cells]
        curves[name] = list(zip(places, (cell.score for cell in cells), strict=True))
        ends = [cell.low for cell in cells], [cell.high for cell in cells]
        axes.fill_between(places, *ends, alpha=0.13, color=look["color"], linewidth=0)
    lines = plot_layered(axes, curves, SAME, looks)
    token_axis(axes)
    return dict(zip(found, lines, strict=True))
