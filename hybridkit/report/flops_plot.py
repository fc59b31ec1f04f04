"""State bytes and FLOPs a token over context, one line a recipe, and where the lines cross."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, cycle
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hybridkit.cost.flops import cost, state_bytes
from hybridkit.report.figure import labels, save_figure
from hybridkit.report.flops import short
from hybridkit.report.numbers import format_bytes, format_count, format_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hybridkit.cost.summary import Question

_CONTEXTS = [round(2 ** (quarter / 4)) for quarter in range(20, 81)]  # 32 ... 1M tokens, four points an octave
STYLES = ("-", "--", "-.", ":")  # lines that lie on each other stay apart
TICKS = [1 << n for n in range(6, 21, 2)]


class Crossing(NamedTuple):
    """Two lines meet: at which context, and at what height."""

    context: float
    figure: float


def draw_costs(asked: Sequence[Question], file: Path) -> None:
    """Two panels on logarithmic axes. Raises UserError for a file that cannot be written."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    state, flops = figure.subplots(1, 2)
    _panel(state, "state bytes of a sequence", asked, _state, format_bytes)
    state.yaxis.set_major_locator(LogLocator(base=4))
    _panel(flops, f"forward FLOPs a token, {asked[0].case.count} count", asked, _forward, format_count)
    flops.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    handles, labels = state.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
    save_figure(figure, file)


def crossings(contexts: Sequence[int], a: Sequence[float], b: Sequence[float]) -> Iterator[Crossing]:
    """Where two curves change places, on the straight lines that logarithmic axes draw between their points."""
    above = [log2(x / y) if x and y else 0.0 for x, y in zip(a, b, strict=True)]
    last = None  # the last point at which they differ
    for at, gap in enumerate(above):
        if gap == 0:
            continue
        if last is not None and above[last] * gap < 0:
            share = above[last] / (above[last] - gap)
            yield Crossing(_between(contexts[last], contexts[at], share), _between(a[last], a[at], share))
        last = at


def _between(low: float, high: float, share: float) -> float:
    return low * (high / low) ** share


def _state(question: Question, context: int) -> float:
    return state_bytes(question.plan, replace(question.case, context=context))


def _forward(question: Question, context: int) -> float:
    return float(cost(question.plan, replace(question.case, context=context)).forward)


def _panel(
    axes: Axes,
    title: str,
    asked: Sequence[Question],
    measure: Callable[[Question, int], float],
    write: Callable[[float], str],
) -> None:
    curves = [[measure(question, context) for context in _CONTEXTS] for question in asked]
    names = short(question.name for question in asked)
    shown = labels(names)
    for name, curve, style in zip(names, curves, cycle(STYLES), strict=False):
        axes.plot(_CONTEXTS, curve, style, label=shown[name], linewidth=2)
    axes.set(title=title, xlabel="context (tokens)", yscale="log" if any(map(any, curves)) else "linear")
    axes.set_xscale("log", base=2)
    axes.set_xticks(TICKS, [format_tokens(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: re.sub(r"[.]?0+ ", " ", write(value)))
    axes.grid(alpha=0.3)
    _mark(axes, [c for a, b in combinations(curves, 2) for c in crossings(_CONTEXTS, a, b)])


def _mark(axes: Axes, met: Sequence[Crossing]) -> None:
    """A ring at every crossing, and its context beside it unless another's stands there already."""
    written: list[tuple[float, float]] = []
    for crossing in sorted(met):
        axes.plot(*crossing, "o", color="black", markersize=6, fillstyle="none")
        x, y = axes.transAxes.inverted().transform(axes.transData.transform(crossing))
        if all(abs(x - other) > 0.09 or abs(y - height) > 0.05 for other, height in written):
            axes.annotate(
                f"{crossing.context:,.0f}", crossing, (0, 8), textcoords="offset points", ha="center", fontsize=8
            )
            written.append((x, y))
