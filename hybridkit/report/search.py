"""A search as people watch it and read it: a live table, lines for log files, the ranked table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from hybridkit.report.console import Console, Group, Live, Table
from hybridkit.search.results import RankedTrial, Results, results
from hybridkit.search.scheduler import SearchProgress
from hybridkit.search.trials import Trial

SHOWN = 5  # trials of the front that the live table shows
MOST = 1e9  # seconds that an ETA says
EVERY = 10.0  # seconds between lines where there is no terminal


class LiveTable:
    """Draws progress in place on a terminal, and as a line now and then elsewhere; within `with`."""

    def __init__(self, workers: int) -> None:
        self._workers, self._console, self._last = workers, Console(stderr=True), ("", float("-inf"))
        self._live = Live(console=self._console, refresh_per_second=2) if self._console.is_terminal else None

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
        """Draw where the search stands."""
        found = results(progress.study)
        summary = summarize(found, eta(progress, self._workers))
        if self._live:
            self._live.update(Group(summary, _running(progress), ranked(found, found.rows[:SHOWN])))
            return
        said, when = self._last
        counts = summary.partition("; about")[0]
        if counts != said and (time.monotonic() - when > EVERY or not progress.running):
            self._console.print(summary)
            self._last = (counts, time.monotonic())

    def message(self, text: str) -> None:
        """Say something in a line."""
        self._console.print(text)


def summarize(found: Results, left: float | None = None) -> str:
    """One line: trials, best, front, what was passed over, and the seconds that are left where they are known."""
    ended = sum(found.count(state) for state in ("done", "pruned", "failed"))
    parts = [f"{ended} of {found.wanted} trials"]
    parts += [f"{found.count(state)} {state}" for state in ("running", "pruned", "failed") if found.count(state)]
    if found.best:
        name = next(iter(found.objectives))
        parts.append(f"best {name} {found.best.means[0]:.4g} (trial {found.best.trial.number})")
    if len(found.objectives) > 1:
        parts.append(f"{sum(row.on_front for row in found.rows)} on the front")
    parts += [f"{found.counts.rejected:,} out of budget", f"{found.counts.duplicates:,} known"]
    return ", ".join(parts) + (f"; about {timedelta(seconds=round(left))} left" if left is not None else "")


def eta(progress: SearchProgress, workers: int) -> float | None:
    """Seconds until the study has all its trials, if they go on taking what they took so far; None at first."""
    took = [trial.seconds for trial in progress.trials if trial.state in ("done", "pruned")]
    if not took:
        return None
    left = progress.study.wanted - sum(trial.state != "running" for trial in progress.trials)
    return min(MOST, max(0, left) * sum(took) / len(took) / workers)


def ranked(found: Results, rows: Sequence[RankedTrial]) -> Table:
    """Trials, the best first; a star marks the front."""
    table = Table("", "trial", *found.objectives, "choice", "pattern", right=slice(1, 2 + len(found.objectives)))
    for row in rows:
        figures = map(figure, row.means, row.half_intervals)
        mark = "*" if row.on_front and len(found.objectives) > 1 else ""
        table.add_row(mark, str(row.trial.number), *figures, choice(row.trial), row.trial.pattern)
    return table


def print_results(found: Results) -> None:
    """The whole ranked table, and the trials that failed, with the reason."""
    console = Console()
    console.print(summarize(found))
    console.print(ranked(found, found.rows))
    for trial in (trial for trial in found.trials if trial.state == "failed"):
        console.print(f"trial {trial.number} failed: {trial.reason}")


def figure(mean: float, spread: float | None) -> str:
    """A mean with half its 95 % interval."""
    return f"{mean:.5g}" if spread is None else f"{mean:.5g} ± {spread:.2g}"


def choice(trial: Trial) -> str:
    """What a trial chose, a sequence's places left out: the pattern shows them."""
    shown = {name: value for name, value in trial.params.items() if not name.rpartition(".")[2].isdecimal()}
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()
    )


def _running(progress: SearchProgress) -> Table:
    table = Table("running", "seed", "step", "loss", "choice", right=slice(0))
    for running in progress.running:
        loss = "" if running.loss is None else f"{running.loss:.4f}"
        step = f"{running.step:,} / {running.steps:,}"
        table.add_row(f"trial {running.trial.number}", str(running.seed), step, loss, choice(running.trial))
    return table
