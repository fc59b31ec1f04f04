"""Curves that share points: the first is drawn widest, the last in front, and so each is seen around those over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hybridkit.report.plot_style import STYLE, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]  # in the order of x
_STEP, _MOST = 2.4, 6.0  # points of width: of a curve more than of the one over it, and of all together
_WIDTH, _MARKER = STYLE["lines.linewidth"], STYLE["lines.markersize"]


def plot_layered(axes: Axes, curves: Mapping[str, Points], near: float, looks: Sequence[Any] = ()) -> list[Any]:
    """Draw curves with markers; the line of each. Points less than `near` apart in y count as the same.

    `looks`: colour and line style of each, those of its place by default.
    """
    found = list(curves.values())
    over = [[_over(found[place + 1 :], *point, near) for point in points] for place, points in enumerate(found)]
    step = min(_STEP, _MOST / max([1, *(len(lying) for lies in over for lying in lies)]))
    lines = []
    for place, (name, points) in enumerate(curves.items()):
        look = looks[place] if looks else series(place)
        width = look.get("linewidth", _WIDTH)
        wider: dict[str, Any] = {
            "color": look["color"],
            "zorder": look.get("zorder", 2),
            "solid_capstyle": "butt",
            "label": "_",
        }
        for (a, lie), (b, there) in pairwise(zip(points, over[place], strict=True)):
            if both := len(lie & there):
                axes.plot(*zip(a, b, strict=True), linewidth=width * (1 + step / _WIDTH * both), **wider)
        for point, lie in zip(points, over[place], strict=True):
            if lie:
                axes.plot(*point, "o", markersize=_MARKER + step * len(lie), **wider)
        lines += axes.plot(*zip(*points, strict=True), marker="o", label=name, **look)
    return lines


def _over(later: Sequence[Points], x: float, y: float, near: float) -> set[int]:
    """Which of the curves that are drawn later pass the point with a point of their own."""
    heights = (dict(points).get(x, math.inf) for points in later)
    return {place for place, height in enumerate(heights) if abs(height - y) < near}
