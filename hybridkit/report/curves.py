"""Training curves of runs, side by side: `hybridkit show RUN RUN --plot curves.png`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from hybridkit.report import figure
from hybridkit.report.console import WIDE, Console, Table, apart
from hybridkit.report.smooth import smooth
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.folders import advice, kind


@dataclass(frozen=True)
class RunCurve:
    """The metrics of a run: its training lines and its validation lines."""

    name: str
    steps: Sequence[dict[str, Any]]
    validations: Sequence[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """The figures of the table, as plain data; null where the run has none yet."""
        recent = _known(line["loss"] for line in self.steps)[-50:]
        speeds = _known(line["tokens_per_second"] for line in self.steps)
        last = self.validations[-1] if self.validations else {}
        return {
            "run": self.name,
            "step": self.steps[-1]["step"] if self.steps else 0,
            "tokens": self.steps[-1]["tokens"] if self.steps else 0,
            "loss": mean(recent) if recent else None,
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
    """One row a run; the loss is the mean of its last 50 steps.

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


def draw_curves(curves: Sequence[RunCurve], file: Path) -> None:
    """Loss over tokens: the batches' faintly, smoothed in front, validation as points. Raises UserError."""
    figure.check_plot_file(file)
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5), layout="constrained")
    axes = drawing.add_subplot(xlabel="tokens", ylabel="loss (nats a token)")
    names = figure.labels(curve.name for curve in curves)
    for curve in curves:
        tokens = {line["step"]: line["tokens"] for line in curve.steps}
        losses = {line["tokens"]: math.nan if line["loss"] is None else line["loss"] for line in curve.steps}
        (line,) = axes.plot(list(losses), smooth(list(losses.values())), label=names[curve.name], zorder=3)
        axes.plot(list(losses), list(losses.values()), color=line.get_color(), alpha=0.25, linewidth=0.6)
        held_out = {v["step"]: v["val_loss"] for v in curve.validations if v["val_loss"] is not None}
        points = [(tokens[step], loss) for step, loss in held_out.items() if step in tokens]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "o", color=line.get_color(), markersize=4)
    axes.plot([], [], "o", color="gray", markersize=4, label="validation")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.save_figure(drawing, file)
