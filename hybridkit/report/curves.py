"""Training curves of runs, side by side: `hybridkit show RUN RUN --plot curves.png`. No torch is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hybridkit.report import figure
from hybridkit.report.console import WIDE, Console, Table, apart
from hybridkit.report.layered import plot_layered
from hybridkit.report.plot_style import (
    FAINT,
    PAGE,
    by_last,
    counts,
    in_style,
    isolated,
    legend,
    new_figure,
    series,
    thinned,
)
from hybridkit.report.smooth import smooth
from hybridkit.runs.metrics import recent_loss
from hybridkit.runs.run import Run
from hybridkit.system.choices import XAxis
from hybridkit.system.errors import UserError
from hybridkit.system.folders import advice, kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FlopsOf = Callable[[dict[str, Any]], float]  # of a step, by its metrics line

_VALIDATION: dict[str, Any] = {"linestyle": ":", "linewidth": 0.8, "zorder": 4}
_AXES = {"tokens": "tokens", "flops": "FLOPs of training", "seconds": "seconds of training"}


@dataclass(frozen=True)
class RunCurve:
    """The metrics of a run: its training lines and its validation lines."""

    name: str
    steps: Sequence[dict[str, Any]]
    validations: Sequence[dict[str, Any]]

    @property
    def minimizes(self) -> str:
        """What this stage of a conversion minimizes other than cross-entropy alone: `kl`, `ce, kl`; else nothing."""
        line = self.steps[0] if self.steps else {}
        return "hidden" if "teacher_power" in line else ", ".join(sorted(line.keys() & {"ce", "kl"}))

    def summary(self) -> dict[str, Any]:
        """The figures of the table, as plain data; null where the run has none yet."""
        speeds = _known(line["tokens_per_second"] for line in self.steps)
        last = self.validations[-1] if self.validations else {}
        return {
            "run": self.name,
            "step": self.steps[-1]["step"] if self.steps else 0,
            "tokens": self.steps[-1]["tokens"] if self.steps else 0,
            "loss": recent_loss(_known(line["loss"] for line in self.steps)),
            "val_loss": last.get("val_loss"),
            "val_bits_per_byte": last.get("val_bits_per_byte"),
            "tokens_per_second": median(speeds) if speeds else None,
        }


def _known(figures: Iterable[float | None]) -> list[float]:
    """Those that are not null: a step without targets has no loss."""
    return [figure for figure in figures if figure is not None]


def curves_of(runs: Iterable[Path]) -> list[RunCurve]:
    """The curves of run folders. Raises UserError for a folder that holds no run."""
    curves = []
    for path in runs:
        run = Run(path)
        if not run.begun:
            raise UserError(f"{path} is no run folder: {kind(path)}; {advice(path) or '`hybridkit train` makes one'}")
        lines = run.metrics().lines
        steps = [line for line in lines if line.keys() >= {"loss", "tokens", "tokens_per_second"}]
        curves.append(RunCurve(str(path), steps, [line for line in lines if "val_loss" in line]))
    return curves


def print_curves(curves: Sequence[RunCurve]) -> None:
    """One row a run; the loss is the mean of its last steps (`recent_loss`).

    Where a terminal is too narrow for the names, their common beginning stands above the table instead.
    """
    console = Console()
    names = [curve.name for curve in curves]
    drawn = _table(curves, names)
    if console.measure(drawn, options=console.options.update(max_width=WIDE)).maximum > console.width:
        common, names = apart(names)
        if common:
            console.print(f"{common}...", soft_wrap=True)  # a path is copied whole
        drawn = _table(curves, names)
    console.print(drawn)


def _table(curves: Sequence[RunCurve], names: Sequence[str]) -> Table:
    table = Table("run", "step", "tokens", "loss", "val loss", "val bits/byte", "tokens/s")
    for curve, name in zip(curves, names, strict=True):
        row = curve.summary()
        figures = [row["loss"], row["val_loss"], row["val_bits_per_byte"]]
        speed = "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}"
        shown = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
        table.add_row(name, f"{row['step']:,}", f"{row['tokens']:,}", *shown, speed)
    return table


@in_style
def draw_curves(curves: Sequence[RunCurve], over: XAxis = "tokens", costs: Sequence[FlopsOf] = ()) -> Figure:
    """Training loss: the batches' faintly, smoothed in front; validations as joined points. What runs minimize in place
    of the cross-entropy of the next token has a panel of its own.

    `costs`, for `over="flops"`: for each run, the FLOPs of a step by its metrics line.
    """
    drawing, axes, own = _panels(curves, over)
    names = figure.labels(curve.name for curve in curves)
    handles, lasts = [], []
    validations: dict[str, list[tuple[float, float]]] = {}
    looks = []
    for place, curve in enumerate(curves):
        look = series(place)
        places = _places(curve, over, costs[place] if costs else None)
        losses = [math.nan if line["loss"] is None else line["loss"] for line in curve.steps]
        raw, smoothed = (list(thinned(list(zip(places, ys, strict=True)))) for ys in (losses, smooth(losses)))
        panel = own if curve.minimizes else axes
        panel.plot(*_columns(raw), color=look["color"], alpha=0.22, linewidth=0.6)
        handles += panel.plot(*_columns(smoothed), **look, **isolated(smoothed), label=names[curve.name], zorder=3)
        by_step = {line["step"]: at for line, at in zip(curve.steps, places, strict=True)}
        held_out = [(by_step[v["step"]], v["val_loss"]) for v in curve.validations if _held_out(v, by_step)]
        if held_out:
            validations[f"{names[curve.name]}, validation"] = held_out
            looks.append(look | _VALIDATION)
        lasts.append(held_out[-1][1] if held_out else smoothed[-1][1] if smoothed else None)
    low, high = axes.get_ylim()
    plot_layered(axes, validations, 0.004 * (high - low), looks)
    order = by_last(lasts)
    handles = [handles[at] for at in order]
    shown = [str(handle.get_label()) for handle in handles]
    validation = axes.plot([], [], "o", color=FAINT, **_VALIDATION)
    counts(axes, "x")
    if not any(axis.dataLim.height >= 0 for axis in drawing.axes):  # -inf without a finite point
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no loss is a number", transform=axes.transAxes, ha="center", va="center", color=FAINT)
    _limit(axes, [curve for curve in curves if not curve.minimizes])
    legend(drawing, [*handles, *validation], [*shown, "validation"])
    return drawing


def _panels(curves: Sequence[RunCurve], over: XAxis) -> tuple[Figure, Axes, Axes]:
    """A figure, its axes for cross-entropies, and those for other losses, the same where there are none."""
    said = " or ".join(dict.fromkeys(curve.minimizes for curve in curves if curve.minimizes))
    if not said:
        drawing = new_figure(PAGE, 3.4)
        axes = drawing.add_subplot(xlabel=_AXES[over], ylabel="loss (nats a token)")
        return drawing, axes, axes
    drawing = new_figure(PAGE, 5.4)
    own, axes = drawing.subplots(2, 1, sharex=True)
    own.set(ylabel=f"loss of the stage ({said})")
    axes.set(xlabel=_AXES[over], ylabel="loss (nats a token)")
    return drawing, axes, own


def _limit(axes: Axes, curves: Sequence[RunCurve]) -> None:
    """The first steps of long runs, far above the others, do not press the rest together; no run is left out."""
    found = [losses for curve in curves if (losses := sorted(_known(line["loss"] for line in curve.steps)))]
    if sum(map(len, found)) > 400:
        validations = [_known(line["val_loss"] for line in curve.validations) for curve in curves]
        low = min(losses[0] for losses in [*found, *map(sorted, validations)] if losses)
        high = max(losses[int(0.985 * (len(losses) - 1))] for losses in found)
        high = max([high, *(losses[-1] for losses in validations if losses)])
        axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))


def _held_out(line: dict[str, Any], steps: Container[int]) -> bool:
    return line["val_loss"] is not None and line["step"] in steps


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _places(curve: RunCurve, over: XAxis, flops: FlopsOf | None) -> list[float]:
    """Where each step stands on the axis: tokens so far, or sums of seconds or FLOPs."""
    if over == "tokens":
        return [line["tokens"] for line in curve.steps]
    spent = (line.get("seconds") or 0.0 if flops is None else flops(line) for line in curve.steps)
    return list(accumulate(spent))
