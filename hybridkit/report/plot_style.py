"""The look of every picture: colours, line styles, sizes, ticks and legends. A picture goes into a paper as it is.

Colours are those of Okabe & Ito (Color Universal Design, 2008), the light ones darker for white paper, so that readers
who do not see all colours tell them apart; line styles do so as well. On a page, the colours of ink, grid and paper are
variables (page_style.py), which change for a dark screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER, UNKNOWN = "#16191d", "#5b626b", "#dde1e6", "#fffffe", "#e4e7eb"
COLORS = ("#0072b2", "#d55e00", "#008563", "#a84b85", "#b07700", "#2b8cbe", "#565d66", "#7d4fb3")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (4, 1.2, 1, 1.2)), (0, (1, 1.1)), (0, (7, 1.4, 1, 1.2, 1, 1.2)))
COLUMN, PAGE = 3.5, 7.2  # inches: the width of a paper's column, and of its text
DPI = 200
NO_TOKENS = 0.5  # where an axis of tokens has 0, which has no place on a logarithmic one
_LEGEND = 0.165  # inches of a line of a legend
_LONG = 26  # characters of a name, from which on a legend stands below

STYLE: Any = {  # matplotlib types every key
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "figure.titlesize": 9.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.hashsalt": "hybridkit",
    "figure.constrained_layout.w_pad": 0.05,
    "figure.constrained_layout.h_pad": 0.05,
}
_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_style(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function whose pictures have this look."""

    @wraps(draw)
    def styled(*given: _P.args, **named: _P.kwargs) -> _R:
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(*given, **named)

    return styled


def new_figure(width: float = PAGE, height: float = 3.2) -> Figure:
    """An empty figure of that many inches; what is put into it does not overlap."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def series(place: int) -> dict[str, Any]:
    """Colour and line style of the series at a place: 40 of them differ."""
    return {"color": COLORS[place % len(COLORS)], "linestyle": LINES[place % len(LINES)]}


def by_last(values: Sequence[float | None]) -> list[int]:
    """Places in the order of a legend: the largest final value first, as the lines end; those without one last."""
    return sorted(range(len(values)), key=lambda at: -float("inf") if (value := values[at]) is None else value)[::-1]


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str], below: bool = False) -> None:
    """Names outside the data: at the right, or below where they are long."""
    if not handles:
        return
    longest, height = max(map(len, names)), figure.get_figheight()
    if not below and longest <= _LONG and figure.get_figwidth() > COLUMN + 1:
        figure.set_figheight(max(height, _LEGEND * (len(names) + 1)))
        figure.legend(handles, names, loc="outside right upper")
        return
    across = max(1, min(len(names), int(figure.get_figwidth() * 13 / (longest + 9))))
    figure.set_figheight(height + _LEGEND * (-(-len(names) // across) - 1))
    figure.legend(handles, names, loc="outside lower center", ncols=across)


def counts(axes: Axes, *names: str) -> None:
    """Ticks of axes (`x`, `y`) at whole numbers, as 20k and 1.5M."""
    from matplotlib.ticker import MaxNLocator

    for name in names:
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(lambda value, _: short_count(value))
        if isinstance(locator := axis.get_major_locator(), MaxNLocator):  # that of linear axes
            locator.set_params(integer=True)


def short_count(value: float) -> str:
    """A count in few characters: 0, 500, 20k, 1.5M, 3G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def logarithmic(axes: Axes, *names: str, base: int = 10, write: Callable[[float], str] | None = None) -> None:
    """Make axes (`x`, `y`) logarithmic, with ticks such as 1k: powers of ten would need matplotlib's TeX."""
    from matplotlib.ticker import LogLocator, NullLocator

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        low, high = sorted(axis.get_view_interval())
        few = base == 10 and high < 200 * max(low, 1e-300)
        axis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if few else (1,), numticks=10))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: (write or short_count)(value))


def token_axis(axes: Axes) -> None:
    """A logarithmic axis of tokens with ticks at powers of two: 1, 16, 256, 4k; what stands at `NO_TOKENS` is 0."""
    from matplotlib.ticker import NullLocator

    from hybridkit.report.numbers import format_tokens

    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    last = next(n for n in range(64) if 2.0**n >= high or n == 63)
    step = 1 + last // 8
    ticks = [1 << n for n in range(0, last + 1, step) if low <= 1 << n <= high]
    none = [NO_TOKENS] if low <= NO_TOKENS else []
    axes.set_xticks([*none, *ticks], [*("0" for _ in none), *map(format_tokens, ticks)])
    axes.xaxis.set_minor_locator(NullLocator())


def place_in_points(axes: Axes, point: Sequence[float], panel: tuple[float, float]) -> tuple[float, float]:
    """How far right and up in its panel a point of data stands, in points. `panel`: its share of the figure's sides."""
    box, scale = axes.figure.bbox, 72 / axes.figure.dpi
    right, up = axes.transAxes.inverted().transform(axes.transData.transform(point))
    return right * box.width * scale * panel[0], up * box.height * scale * panel[1]


def text_color(background: Sequence[float]) -> str:
    """White or black, whichever is easier to read on a colour (r, g, b from 0 to 1)."""
    return max(("#ffffff", "#000000"), key=lambda color: contrast(rgb(color), background))


def contrast(a: Sequence[float], b: Sequence[float]) -> float:
    """The contrast of two colours, from 1 to 21 (WCAG 2.2)."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Sequence[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def rgb(color: str) -> tuple[float, float, float]:
    """The parts of `#rrggbb`, from 0 to 1."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def thinned(points: Sequence[tuple[float, float]], most: int = 800) -> Iterator[tuple[float, float]]:
    """At most so many points of a curve, its first and last among them; of each stretch the lowest and the highest."""
    if len(points) <= most:
        yield from points
        return
    size = -(-2 * len(points) // (most - 2))
    yield points[0]
    for begin in range(1, len(points) - 1, size):
        part = [point for point in points[begin : min(begin + size, len(points) - 1)] if point[1] == point[1]]
        if part:
            yield from sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    yield points[-1]


def isolated(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The look of a line that marks the points between which and the next ones no line is drawn."""
    known = [False, *(y == y for _, y in points), False]
    alone = [at - 1 for at in range(1, len(known) - 1) if known[at] and not (known[at - 1] or known[at + 1])]
    return {"marker": "o", "markevery": alone} if alone else {}
