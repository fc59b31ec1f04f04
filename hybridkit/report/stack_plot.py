"""The stack as a picture: `hybridkit show RECIPE --plot stack.png`. Lengths are inches, y counts downwards.

A tile is a block, branches stand side by side in one row, a bracket at the left is a repeated group. Beside a tile: its
window as a band on a logarithmic scale, its parameters, and its state after `data.sequence` tokens. Below, where a
window changes in training, which one each step has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from hybridkit.block import ALL
from hybridkit.recipe.files import run_name
from hybridkit.report.figure import label
from hybridkit.report.numbers import format_bytes, format_parameters, format_tokens
from hybridkit.report.plot_style import COLORS, FAINT, GRID, INK, in_style, new_figure
from hybridkit.report.stack import Repeated, StackLayer, stack_tree
from hybridkit.report.window_plot import Shares, draw_policies, shares_of, size_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hybridkit.model.plan import Plan

_ROW, _OTHER, _GAP = 0.22, 0.17, 0.045  # heights of a mixer's row and of another's, and the space below
_TOP = 0.2  # height of the heads of the columns
_LEVEL, _BAND, _PARAMS, _STATE, _SPACE = 0.33, 1.3, 0.62, 0.78, 0.12  # widths; a level: a bracket
_TILES = (1.5, 4.4)  # the least and largest width of a row's tiles
_BESIDE = 0.05  # between branches
_SMALL = 6.8  # points
_LETTER = 0.056  # inches, the mean width of a letter of that size


@dataclass
class _Drawing:
    """Where the next row goes, and what rows are drawn with."""

    axes: Axes
    colors: Mapping[str, str]  # by block
    shares: Mapping[str, Shares]  # by policy
    widest: int  # the window whose band fills its column: that of what sees everything, too
    left: float  # where tiles begin
    tile: float  # how wide a row of tiles is
    y: float = 0.0

    @property
    def bands(self) -> float:
        """Where bands begin."""
        return self.left + self.tile + _SPACE

    @property
    def params(self) -> float:
        """Where numbers of parameters end."""
        return self.bands + _BAND + _SPACE + _PARAMS

    @property
    def right(self) -> float:
        """Where states end."""
        return self.params + _SPACE + _STATE

    def write(self, x: float, text: str, **look: Any) -> None:
        """A text in the middle of the next row of blocks that do not mix; `look` moves and changes it."""
        middle = look.pop("y", self.y + _OTHER / 2)
        self.axes.text(x, middle, text, fontsize=_SMALL, va="center", **look)


@in_style
def draw_stack(name: str, plan: Plan, costs: Mapping[str, Any], seed: int, steps: int) -> Figure:
    """The picture of a plan with its `costs`, an entry of `flops --json`; `seed` and `steps` of its training."""
    layers: list[StackLayer] = costs["layers"]
    tree = stack_tree(layers, "entry", [entry.is_mixer for entry in plan.entries])
    shares = shares_of(plan, costs["context"])
    changing = [policy for policy, sizes in shares.items() if len(sizes) > 1]
    left = _LEVEL * _levels(tree) + 0.02
    tile = min(max([_TILES[0], *(sum(_widths(layer)) for layer in layers)]), _TILES[1])
    width = left + tile + _BAND + _PARAMS + _STATE + 3 * _SPACE + 0.05
    said = wrap(plan.pattern, int(width * 15))
    height = 0.3 + 0.14 * len(said) + _TOP + _height(tree) + 2 * (_OTHER + _GAP) + 0.05
    below = 0.55 + 0.5 * len(changing) if changing else 0.0
    figure = new_figure(width + 0.1, height + below)
    if not changing:
        figure.set_layout_engine("none")  # all is placed in inches
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, below]) if changing else [figure]
    axes = parts[0].add_axes((0.05 / (width + 0.1), 0, width / (width + 0.1), 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    kinds = dict.fromkeys(kind for layer in layers for kind in _blocks(layer))
    colors = {kind: COLORS[place % len(COLORS)] for place, kind in enumerate(kinds)}
    widest = max([costs["context"], *(size for sizes in shares.values() for size in sizes if size != ALL)])
    drawing = _Drawing(axes, colors, shares, widest, left, tile)
    _heads(drawing, name, said, costs)
    _around(drawing, "embedding", costs["params"]["embedding"])
    _draw(drawing, tree, 0)
    _around(
        drawing,
        "norm, head" if costs["params"]["head"] else "norm, tied head",
        costs["params"]["head"] + plan.dims.width,
    )
    if changing:
        draw_policies(parts[1], plan, {policy: shares[policy] for policy in changing}, seed, steps, costs["context"])
    return figure


def _blocks(layer: StackLayer) -> list[str]:
    return [part["block"] for part in layer.get("branches", [layer])]


def _levels(part: Repeated) -> int:
    """How many brackets stand beside each other."""
    inner = max((_levels(child) for child in part.parts if isinstance(child, Repeated)), default=0)
    return inner + (part.times > 1)


def _height(part: Repeated) -> float:
    return sum(_height(child) if isinstance(child, Repeated) else _row(child) + _GAP for child in part.parts)


def _row(layer: StackLayer) -> float:
    return _ROW if layer["state_bytes"] else _OTHER


def _widths(layer: StackLayer) -> list[float]:
    """What the texts of a layer's branches need."""
    return [_LETTER * len(part["entry"]) + 0.12 + _BESIDE for part in layer.get("branches", [layer])]


def _heads(drawing: _Drawing, name: str, pattern: list[str], costs: Mapping[str, Any]) -> None:
    """Name, pattern and sizes above, then the heads of the columns."""
    total, state = costs["params"]["total"], costs["state_bytes"][str(costs["context"])]
    context = format_tokens(costs["context"])
    sizes = f"{format_parameters(total)} parameters, state {format_bytes(state)} at {context}"
    title, room = label(run_name(name)), drawing.right - _LETTER * len(sizes)  # inches; a bold letter is .7 of its size
    largest = 72 * room / (0.7 * max(len(title), 1))
    drawing.axes.text(0, 0.1, title, fontsize=max(5, min(9, largest)), fontweight="bold", va="center")
    drawing.axes.text(drawing.right, 0.1, sizes, fontsize=_SMALL, va="center", ha="right")
    for place, line in enumerate(pattern):
        drawing.axes.text(0, 0.27 + 0.14 * place, line, fontsize=_SMALL, va="center", color=FAINT, family="monospace")
    drawing.y = 0.3 + 0.14 * len(pattern)
    look = {"color": FAINT, "ha": "right"}
    drawing.write(drawing.bands, "window", color=FAINT)
    drawing.write(drawing.params, "parameters", **look)
    drawing.write(drawing.right, f"state at {context}", **look)
    drawing.y += _TOP


def _around(drawing: _Drawing, name: str, parameters: int) -> None:
    """A row for what stands around the stack."""
    _tile(drawing, drawing.left, drawing.tile, _OTHER, GRID, 1.0, name)
    drawing.write(drawing.params, format_parameters(parameters) if parameters else "0", ha="right")
    drawing.y += _OTHER + _GAP


def _draw(drawing: _Drawing, part: Repeated, level: int) -> None:
    begin = drawing.y
    inner = level + (part.times > 1)
    for child in part.parts:
        if isinstance(child, Repeated):
            _draw(drawing, child, inner)
        else:
            _layer(drawing, child)
    if part.times > 1:
        _bracket(drawing, level * _LEVEL, begin, drawing.y - _GAP, f"×{part.times}")


def _bracket(drawing: _Drawing, x: float, top: float, bottom: float, text: str) -> None:
    x, end = x + _LEVEL - 0.07, x + _LEVEL - 0.02
    drawing.axes.plot([end, x, x, end], [top, top, bottom, bottom], color=INK, linewidth=0.9)
    drawing.axes.text(x - 0.03, (top + bottom) / 2, text, fontsize=7.5, ha="right", va="center")


def _layer(drawing: _Drawing, layer: StackLayer) -> None:
    height, parts, x = _row(layer), layer.get("branches", [layer]), drawing.left
    widths, banded = _widths(layer), [part for part in parts if part["window"] or part["sees_all"]]
    for part, share in zip(parts, widths, strict=True):
        color, wide = drawing.colors[part["block"]], (drawing.tile + _BESIDE) * share / sum(widths)
        _tile(drawing, x, wide - _BESIDE, height, color, 0.22, part["entry"])
        x += wide
        if part in banded:
            thick = height / len(banded)
            _band(drawing, part, drawing.y + banded.index(part) * thick, thick, color)
    middle = {"ha": "right", "y": drawing.y + height / 2}
    drawing.write(drawing.params, format_parameters(layer["params"]), **middle)
    drawing.write(drawing.right, format_bytes(layer["state_bytes"]) if layer["state_bytes"] else "–", **middle)
    drawing.y += height + _GAP


def _tile(drawing: _Drawing, x: float, wide: float, height: float, color: str, alpha: float, text: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.035"
    look: dict[str, Any] = {"facecolor": color, "alpha": alpha, "linewidth": 0}
    drawing.axes.add_patch(FancyBboxPatch((x, drawing.y), wide, height, shape, **look))
    room = int((wide - 0.06) / _LETTER)
    shown = text if len(text) <= room else f"{text[: room - 1]}…"
    drawing.write(x + wide / 2, shown, ha="center", y=drawing.y + height / 2)


def _band(drawing: _Drawing, part: StackLayer, top: float, height: float, color: str) -> None:
    """Bars as wide as the windows, the more often the darker; to the edge for what sees everything."""
    sizes = drawing.shares.get(part["window"] or "", {})
    for size, share in sorted((sizes or {drawing.widest: 1.0}).items(), reverse=True):
        wide = _BAND * log2(1 + min(size, drawing.widest)) / log2(1 + drawing.widest)
        place = (drawing.bands, top + 0.12 * height)
        drawing.axes.barh(place[1], wide, 0.76 * height, left=place[0], align="edge", color=color,
                          alpha=0.25 + 0.4 * share, linewidth=0)  # fmt: skip
    text = "all" if not sizes else " · ".join(map(size_name, sorted(sizes))) if len(sizes) < 4 else _range(sizes)
    if height >= 0.1:
        drawing.axes.text(drawing.bands + 0.05, top + height / 2, text, fontsize=min(_SMALL, 60 * height), va="center")


def _range(sizes: Shares) -> str:
    return f"{size_name(min(sizes))} to {size_name(max(sizes))}"
