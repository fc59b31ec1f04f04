"""Training curves of runs, side by side: `hybridkit show RUN RUN --plot curves.png`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from hybridkit.errors import UserError
from hybridkit.report import figure
from hybridkit.run import Run


@dataclass(frozen=True)
class Curve:
    """What a run's metrics say: its training lines and its validation lines."""

    name: str
    steps: Sequence[dict[str, Any]]
    validations: Sequence[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """The figures of the table, as plain data; null where the run has none yet."""
        recent = [line["loss"] for line in self.steps if line["loss"] is not None][-50:]
        last = self.validations[-1] if self.validations else {}
        return {
            "run": self.name,
            "step": self.steps[-1]["step"] if self.steps else 0,
            "tokens": self.steps[-1]["tokens"] if self.steps else 0,
            "loss": mean(recent) if recent else None,
            "val_loss": last.get("val_loss"),
            "val_bits_per_byte": last.get("val_bits_per_byte"),
            "tokens_per_second": median(line["tokens_per_second"] for line in self.steps) if self.steps else None,
        }


def curves_of(runs: Iterable[Path]) -> list[Curve]:
    """The curves of run folders. Raises UserError for a folder that holds no run."""
    curves = []
    for path in runs:
        run = Run(path)
        if not run.begun:
            raise UserError(f"{path} is no run folder; curves are those of folders that `hybridkit train` wrote")
        lines = run.metrics().lines
        steps = [line for line in lines if line.keys() >= {"loss", "tokens", "tokens_per_second"}]
        curves.append(Curve(str(path), steps, [line for line in lines if "val_loss" in line]))
    return curves


def print_curves(curves: Sequence[Curve]) -> None:
    """One row a run; the loss is the mean of its last 50 steps."""
    table = Table("run", "step", "tokens", "loss", "val loss", "val bits/byte", "tokens/s", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for curve in curves:
        row = curve.summary()
        figures = [row["loss"], row["val_loss"], row["val_bits_per_byte"]]
        speed = "-" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}"
        shown = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
        table.add_row(row["run"], f"{row['step']:,}", f"{row['tokens']:,}", *shown, speed)
    Console().print(table)


def draw(curves: Sequence[Curve], file: Path) -> None:
    """Loss over tokens, smoothed, with validation as points. Raises UserError for a file it cannot write."""
    figure.check(file)
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5), layout="constrained")
    axes = drawing.add_subplot(xlabel="tokens", ylabel="loss (nats a token)")
    for curve in curves:
        tokens = {line["step"]: line["tokens"] for line in curve.steps}
        counted = [line for line in curve.steps if line["loss"] is not None]
        losses = _smooth([line["loss"] for line in counted])
        (line,) = axes.plot([line["tokens"] for line in counted], losses, label=curve.name)
        found = [v for v in curve.validations if v["step"] in tokens and v["val_loss"] is not None]
        points = [(tokens[v["step"]], v["val_loss"]) for v in found]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), "o", color=line.get_color(), markersize=4)
    axes.plot([], [], "o", color="gray", markersize=4, label="validation")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.save(drawing, file)


def _smooth(losses: Sequence[float], keep: float = 0.95) -> list[float]:
    """An exponential average that starts unbiased: the eye follows it where single batches scatter."""
    smoothed, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = keep * total + (1 - keep) * loss, keep * weight + (1 - keep)
        smoothed.append(total / weight)
    return smoothed
