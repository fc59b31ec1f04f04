"""Running a search: one process proposes trials, starts workers, watches them, and stores the results.

A trial whose worker dies is continued by a new worker. If the process of the search dies, `--resume` continues its
running trials.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple, Protocol

from hybridkit.search.arguments import ablations, without_ablations
from hybridkit.search.outcome import Outcome, read_outcome
from hybridkit.search.processes import ForkServer, stop_processes
from hybridkit.search.pruner import choose_pruner, rung_to_stop_at, running_losses
from hybridkit.search.storage import repair_journal
from hybridkit.search.study import Study
from hybridkit.search.trials import Trial
from hybridkit.search.worker import EXIT_CANNOT_WRITE, LOG, TrialJob, run_job
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.system.signals import Signals

RETRIES = 5  # restarts of a trial in a row without a new checkpoint, after which it fails
# Modules that training imports late. The server imports them once for all workers; torch's optimizers need dynamo.
PRELOAD = [
    "hybridkit.search.worker",
    "hybridkit.training.engines.local.engine",
    "tensorboard.summary.writer.record_writer",
]
PRELOAD += ["torch._dynamo"]
POLL_SECONDS = 1.0  # between two looks at running trials
GRACE_SECONDS = 60.0  # for a worker that is asked to stop, to write its last checkpoint
_CANNOT_WRITE = "the disk is full, or cannot be written"


@dataclass
class Worker:
    """A worker process and the trial that it runs."""

    trial: Trial
    job: TrialJob
    process: ForkServerProcess
    deaths: int = 0  # in a row without a new checkpoint
    reached: int = 0  # sum over seeds of the newest checkpoint's step, at the last death
    stop_rung: str | None = None  # the rung at which the trial is pruned


class Running(NamedTuple):
    """The progress of a running trial."""

    trial: Trial
    seed: int
    step: int
    steps: int
    loss: float | None


class SearchProgress(NamedTuple):
    """The progress of a search."""

    study: Study
    trials: Sequence[Trial]
    running: Sequence[Running]
    seconds: float  # since the search was started


class SearchDisplay(Protocol):
    """Shows progress; hybridkit.report.search has one for terminals and log files."""

    def update(self, progress: SearchProgress) -> None:
        """Called at least once a second."""

    def message(self, text: str) -> None:
        """Show a message of one line."""


def run_search(study: Study, workers: int, display: SearchDisplay, plugins: Sequence[Path] = ()) -> None:
    """Run a study to its end.

    Raises UserError for a folder that another search uses or that cannot be trusted, Interrupted for a signal, and
    Failure where the machine fails; finished trials are kept.
    """
    begin = time.monotonic()
    with Lock(study.folder, "--study"), Signals() as signals, _resumable(study.folder):
        check_tree(study.folder)
        repair_journal(study.folder)
        pool = WorkerPool(study, workers, display, tuple(plugins))
        try:
            while pool.start_trials():
                pool.wait()
                if signals.stop:
                    raise Interrupted(f"stopped; continue with --resume: {study.folder}", signals.stop)
                pool.update()
                display.update(SearchProgress(study, study.trials(), pool.running(), time.monotonic() - begin))
        finally:
            pool.stop()
        display.update(SearchProgress(study, study.trials(), [], time.monotonic() - begin))
        if study.stop_reason:
            display.message(f"the search ends: {study.stop_reason}")


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Add to a failure of the machine what is kept, and how to continue."""
    try:
        yield
    except (Failure, OSError) as error:
        raise Failure(f"{folder}: {error}; finished trials are kept, and --resume goes on") from error


class WorkerPool:
    """The workers of a search."""

    def __init__(self, study: Study, size: int, display: SearchDisplay, plugins: tuple[Path, ...]) -> None:
        self._study, self._size, self._display, self._plugins = study, size, display, plugins
        self._server = ForkServer(PRELOAD)
        self._threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // size))
        self._unfinished = study.own_running()  # trials of a search that was interrupted
        self._workers: list[Worker] = []

    def start_trials(self) -> bool:
        """Start a trial for every free worker; whether any worker runs then."""
        while len(self._workers) < self._size:
            trial = self._unfinished.pop(0) if self._unfinished else self._study.begin()
            if trial is None:
                break
            job = self._job(trial)
            self._workers.append(Worker(trial, job, self._server.start(run_job, job)))
        return bool(self._workers)

    def wait(self) -> None:
        """Wait until a worker ends, at most POLL_SECONDS. Raises Failure where the server has died."""
        wait([worker.process.sentinel for worker in self._workers], POLL_SECONDS)
        self._server.check()

    def update(self) -> None:
        """Close the trials whose workers have ended, and stop those that are pruned."""
        for worker in list(self._workers):
            ended = self._server.has_ended(worker.process)
            self._prune(worker)
            if ended:
                self._close(worker)

    def running(self) -> list[Running]:
        """The progress of each running trial."""
        return [_progress(worker) for worker in self._workers]

    def stop(self) -> None:
        """Ask all workers to stop, and wait until they have ended."""
        stop_processes([worker.process for worker in self._workers], GRACE_SECONDS)

    def _job(self, trial: Trial) -> TrialJob:
        settings, folder = self._study.definition.file.trial, self._study.trial_folder(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        candidate = self._study.candidate(trial)
        recipes = tuple(candidate.run(seed) for seed in range(settings.seeds))
        plan = candidate.costs.plan
        questions = tuple(
            without_ablations(text, {name for name in ablations(text) if not plan.has(name)})
            for text in settings.questions
        )
        windows = tuple(settings.windows)
        return TrialJob(folder, recipes, questions, windows, plan.has_windows, self._threads, self._plugins)

    def _close(self, worker: Worker) -> None:
        """Store the result of a trial, or continue it where its worker died."""
        trial = worker.trial
        try:
            outcome = read_outcome(worker.job.folder)
        except UserError as error:
            outcome = Outcome([], str(error))
        if worker.process.exitcode == EXIT_CANNOT_WRITE:
            raise Failure(f"trial {trial.number}: {_last_line(worker.job.folder)}")
        if worker.stop_rung:
            self._study.prune(trial, f"fell behind at step {worker.stop_rung}")
        elif outcome:
            self._study.end(trial, outcome)
        elif _count_death(worker) <= RETRIES:
            self._display.message(f"trial {trial.number}: its worker {_how_ended(worker.process)}; started again")
            worker.process = self._server.start(run_job, worker.job)
            return
        else:
            times = f"for the {worker.deaths}th time in a row"
            self._study.fail(trial, f"its worker {_how_ended(worker.process)}, {times}")
        self._workers.remove(worker)

    def _prune(self, worker: Worker) -> None:
        """Store the running losses of a trial at its rungs, and stop it where the pruner says so."""
        said = self._study.definition.file.pruner
        if said is None or worker.stop_rung:
            return
        pruner, number, run = choose_pruner(said), worker.trial.number, worker.job.run(0)
        steps = pruner.rungs(number, worker.job.recipes[0].recipe.train.steps)
        trials, last = self._study.trials(), run.last_line("loss")
        if not last or all(step > last["step"] or str(step) in trials[number].rungs for step in steps):
            return
        losses = running_losses(run.metrics().lines, steps)
        if losses.keys() <= trials[number].rungs.keys():
            return
        self._study.storage.set_fields(number, rungs=losses)
        worker.stop_rung = rung_to_stop_at(pruner, losses, (other for other in trials if other.number != number))
        if worker.stop_rung:
            worker.process.terminate()


def _progress(worker: Worker) -> Running:
    """The seed that a worker trains now, and its last step."""
    begun = [seed for seed in range(len(worker.job.recipes)) if worker.job.run(seed).begun]
    seed = max(begun, default=0)
    last = worker.job.run(seed).last_line("loss") or {"step": 0, "loss": None}
    return Running(worker.trial, seed, last["step"], worker.job.recipes[seed].recipe.train.steps, last["loss"])


def _count_death(worker: Worker) -> int:
    """Deaths in a row, this one included, without a new checkpoint between them."""
    runs = [worker.job.run(seed) for seed in range(len(worker.job.recipes))]
    reached = sum(max((checkpoint.step for checkpoint in run.checkpoints()), default=0) for run in runs)
    worker.deaths = 1 if reached > worker.reached else worker.deaths + 1
    worker.reached = reached
    return worker.deaths


def _last_line(folder: Path) -> str:
    """The last line of a worker's log."""
    with suppress(OSError):
        if lines := (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n"):
            return next((line for line in reversed(lines) if line.strip()), _CANNOT_WRITE)[:500]
    return _CANNOT_WRITE


def _how_ended(process: ForkServerProcess) -> str:
    code = process.exitcode
    return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
