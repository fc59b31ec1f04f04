"""State bytes and FLOPs a token over context, one line a recipe, and where the lines cross."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

from hybridkit.cost.flops import cost, total_state_bytes
from hybridkit.report.figure import labels
from hybridkit.report.flops import short
from hybridkit.report.numbers import format_bytes, format_count
from hybridkit.report.plot_style import (
    INK,
    PAGE,
    by_last,
    in_style,
    legend,
    logarithmic,
    new_figure,
    place_in_points,
    series,
    token_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hybridkit.cost.summary import CostRequest

_RING, _LETTERS = 5.0, 7.0  # points: of a ring's width, and of a text's height
_CONTEXTS = [round(2 ** (quarter / 4)) for quarter in range(20, 81)]  # 32 ... 1M tokens, four points an octave


class Crossing(NamedTuple):
    """Two lines meet: at which context, and at what height."""

    context: float
    figure: float


@in_style
def draw_costs(asked: Sequence[CostRequest]) -> Figure:
    """State bytes and FLOPs over context, on logarithmic axes."""
    figure = new_figure(PAGE, 3.1)
    state, flops = figure.subplots(1, 2)
    handles = _panel(state, "state of a sequence", asked, _state, format_bytes, base=4)
    _panel(flops, f"forward FLOPs a token ({asked[0].settings.count})", asked, _forward, format_count, base=10)
    legend(figure, handles, [handle.get_label() for handle in handles], below=True)
    return figure


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


def _state(request: CostRequest, context: int) -> float:
    return total_state_bytes(request.plan, replace(request.settings, context=context))


def _forward(request: CostRequest, context: int) -> float:
    return float(cost(request.plan, replace(request.settings, context=context)).forward)


def _panel(
    axes: Axes,
    title: str,
    asked: Sequence[CostRequest],
    measure: Callable[[CostRequest, int], float],
    write: Callable[[float], str],
    base: int,
) -> list[Any]:
    curves = [[measure(request, context) for context in _CONTEXTS] for request in asked]
    names = short(request.name for request in asked)
    shown = labels(names)
    handles = [
        axes.plot(_CONTEXTS, curve, label=shown[name], **series(place))[0]
        for place, (name, curve) in enumerate(zip(names, curves, strict=True))
    ]
    axes.set(title=title, xlabel="context (tokens)")
    token_axis(axes)
    if any(map(any, curves)):
        logarithmic(axes, "y", base=base, write=lambda value: re.sub(r"[.]?0+ ", " ", write(value)))
    _mark(axes, [c for a, b in combinations(curves, 2) for c in crossings(_CONTEXTS, a, b)])
    return [handles[at] for at in by_last([curve[-1] for curve in curves])]


def _mark(axes: Axes, met: Sequence[Crossing]) -> None:
    """A ring at every crossing, its context at the upper left, where growing lines leave room; one ring for equals."""
    written: list[tuple[float, float, float]] = []  # left and right end of a text, and its height
    ringed: list[tuple[float, float]] = []
    for crossing in sorted(met):
        x, y = place_in_points(axes, crossing, (1 / 2.4, 1 / 1.6))
        if any(abs(x - other) < _RING and abs(y - height) < _RING for other, height in ringed):
            continue
        ringed.append((x, y))
        axes.plot(*crossing, "o", color=INK, markersize=_RING, fillstyle="none", markeredgewidth=0.8)
        text = f"{crossing.context:,.0f}"
        left, above = x - 0.6 * _LETTERS * len(text), y + _RING / 2 + 1
        while any(left < end and begin < x and abs(above - at) < _LETTERS for begin, end, at in written):
            above += _LETTERS
        written.append((left, x, above))
        axes.annotate(text, crossing, (-1, above - y), textcoords="offset points", ha="right", fontsize=_LETTERS)
