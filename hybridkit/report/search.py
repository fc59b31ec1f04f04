"""A search on the console: a live table, lines for log files, and the ranked table."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hybridkit.report.compare import comparison_tables
from hybridkit.report.console import Console, Group, Table
from hybridkit.report.live import Live
from hybridkit.report.numbers import format_bytes, format_duration, format_parameters
from hybridkit.report.pace import Throttle
from hybridkit.report.page import print_table
from hybridkit.search.compare import Comparison
from hybridkit.search.results import RankedTrial, Results, results
from hybridkit.search.trials import Trial
from hybridkit.system.terminal import redraws

if TYPE_CHECKING:  # it trains, for which it imports torch
    from hybridkit.search.scheduler import SearchProgress

SHOWN = 5  # trials of the front that the live table shows


class LiveTable:
    """Shows progress: a table that is redrawn on a terminal, else a line now and then. A context manager."""

    def __init__(self, workers: int) -> None:
        self._workers, self._console = workers, Console(stderr=True)
        self._said: int | None = None  # the trials that had ended, in the last line
        self._throttle = Throttle()
        self._live = Live(console=self._console, refresh_per_second=2) if redraws(sys.stderr) else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, progress: SearchProgress) -> None:
        """Show the progress of the search."""
        found = results(progress.study)
        summary = summarize(found, eta(progress, self._workers))
        if self._live:
            running = [_running(progress)] if progress.running else []
            self._live.update(Group(summary, *running, ranked(found, found.rows[:SHOWN])))
            return
        if found.ended != self._said and self._throttle.due(always=not progress.running):
            self._console.print(summary)
            self._said = found.ended

    def message(self, text: str) -> None:
        """Show a message of one line."""
        self._console.print(text)


def summarize(found: Results, left: float | None = None) -> str:
    """One line: trials, best, front, proposals not trained, and the remaining seconds where they are known."""
    parts = [f"{found.ended} of {found.num_trials} trials"]
    parts += [f"{found.count(state)} {state}" for state in ("running", "pruned", "failed") if found.count(state)]
    if found.best:
        name = next(iter(found.objectives))
        parts.append(f"best {name} {found.best.means[0]:.4g} (trial {found.best.trial.number})")
    if len(found.objectives) > 1:
        parts.append(f"{sum(row.on_front for row in found.rows)} on the front")
    parts += [f"{found.counts.rejected:,} out of budget", f"{found.counts.duplicates:,} known"]
    return ", ".join(parts) + (f"; about {format_duration(left)} left" if left else "")


def eta(progress: SearchProgress, workers: int) -> float | None:
    """Seconds until the study has all its trials, from the mean time of its trials so far; None without any."""
    took = [trial.seconds for trial in progress.trials if trial.state in ("done", "pruned")]
    if not took:
        return None
    left = progress.study.num_trials - sum(trial.state != "running" for trial in progress.trials)
    return max(0, left) * sum(took) / len(took) / workers


def ranked(found: Results, rows: Sequence[RankedTrial]) -> Table:
    """A table of trials, the best first; a star marks the Pareto front."""
    table = Table("", "trial", *found.objectives, "choice", "pattern", right=range(1, 2 + len(found.objectives)))
    for row, means in zip(rows, written_means(found, rows), strict=True):
        mark = "*" if row.on_front and len(found.objectives) > 1 else ""
        table.add_row(mark, str(row.trial.number), *means, format_choice(row.trial), row.trial.pattern)
    return table


def written_means(found: Results, rows: Sequence[RankedTrial]) -> list[list[str]]:
    """The objectives of trials, in the form of their columns."""
    columns = [
        format_column([row.means[at] for row in rows], [row.half_intervals[at] for row in rows], name)
        for at, name in enumerate(found.objectives)
    ]
    return [[column[at] for column in columns] for at in range(len(rows))]


def print_results(found: Results, compared: Comparison | None = None) -> None:
    """Print what is compared, the ranked table, and the failed trials with their reasons."""
    console = Console()
    for table in comparison_tables(compared) if compared else ():
        print_table(console, table)
    console.print(summarize(found))
    console.print(ranked(found, found.rows))
    for trial in (trial for trial in found.trials if trial.state == "failed"):
        console.print(f"trial {trial.number} failed: {trial.reason}")


def format_mean(mean: float, spread: float | None, name: str = "") -> str:
    """A mean with half its 95 % interval; of a metric of bytes or parameters in their units."""
    write = format_bytes if "bytes" in name else format_parameters if name.startswith("params") else None
    if write:
        return write(round(mean)) if spread is None else f"{write(round(mean))} ± {write(round(spread))}"
    return f"{mean:.5g}" if spread is None else f"{mean:.5g} ± {spread:.2g}"


def format_column(means: Sequence[float], spreads: Sequence[float | None], name: str = "") -> list[str]:
    """Means of a column as `format_mean` writes them; where none has an interval, all with equally many decimals."""
    written = [format_mean(mean, spread, name) for mean, spread in zip(means, spreads, strict=True)]
    plain = all(map(re.compile(r"-?\d+(\.\d+)?").fullmatch, written))
    decimals = max((len(text.partition(".")[2]) for text in written), default=0)
    return [f"{mean:.{decimals}f}" for mean in means] if plain else written


def format_choice(trial: Trial) -> str:
    """The choice of a trial, without the layers of sequences, which the pattern shows."""
    shown = {name: value for name, value in trial.params.items() if not name.rpartition(".")[2].isdecimal()}
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()
    )


def _running(progress: SearchProgress) -> Table:
    table = Table("running", "seed", "step", "loss", "choice", right=())
    for running in progress.running:
        loss = "" if running.loss is None else f"{running.loss:.4f}"
        step = f"{running.step:,} / {running.steps:,}"
        table.add_row(f"trial {running.trial.number}", str(running.seed), step, loss, format_choice(running.trial))
    return table
