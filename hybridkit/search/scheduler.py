"""Leading a search: one process that proposes, starts workers, watches them and writes down what they came to.

A worker that dies is started again where its run stands; what the leading process leaves running when it dies is taken
up by `--resume`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from hybridkit.search.arguments import read_arguments
from hybridkit.search.processes import ForkServer, stop
from hybridkit.search.pruner import rung_to_stop_at, rungs, running_losses
from hybridkit.search.storage import mend_journal
from hybridkit.search.study import Study
from hybridkit.search.trials import Trial
from hybridkit.search.worker import LOG, NO_ROOM, Outcome, TrialJob, read_outcome, work
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.links import check_tree
from hybridkit.system.lock import Lock
from hybridkit.system.signals import Signals

RETRIES = 5  # times that a trial whose worker died is started again without having come any further
# What training imports only when it begins, so that no worker has to: torch's optimizers bring its compiler.
PRELOAD = ["hybridkit.search.worker", "hybridkit.training.engines.local", "tensorboard.summary.writer.record_writer"]
PRELOAD += ["torch._dynamo"]
POLL = 1.0  # seconds between looks at running trials
NO_WORDS = "the disk is full, or cannot be written"
LONGEST = 60  # bytes of TMPDIR: a socket's path has 107, of which multiprocessing adds up to 40
GRACE = 60.0  # seconds that a worker has to write its last checkpoint


def short_temporary_folder() -> None:
    """Have multiprocessing keep its sockets in /tmp where TMPDIR is too long for them, for this process.

    Raises UserError where that cannot be.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST:
        return
    tempfile.tempdir = "/tmp"
    try:
        multiprocessing.util.get_temp_dir()  # which is made once, and kept
    except OSError as error:
        raise UserError(f"TMPDIR is longer than the {LONGEST} bytes that sockets allow: name another folder") from error
    finally:
        tempfile.tempdir = folder


@dataclass
class Worker:
    """A trial that runs now."""

    trial: Trial
    job: TrialJob
    process: ForkServerProcess
    deaths: int = 0  # since it came further
    reached: int = 0  # steps that checkpoints held at its last death, over all seeds
    behind: str | None = None  # the rung at which it is to be stopped


class Running(NamedTuple):
    """Where a running trial stands."""

    trial: Trial
    seed: int
    step: int
    steps: int
    loss: float | None


class SearchProgress(NamedTuple):
    """Where a search stands."""

    study: Study
    trials: Sequence[Trial]
    running: Sequence[Running]
    seconds: float  # since the search was started


class Watcher(Protocol):
    """Draws progress; hybridkit.report.search does it for terminals and for log files."""

    def update(self, progress: SearchProgress) -> None:
        """Something may have changed."""

    def message(self, text: str) -> None:
        """Something to know, in a line."""


def search(study: Study, workers: int, watcher: Watcher, plugins: Sequence[Path] = ()) -> None:
    """Run a study to its end.

    Raises UserError for a folder that another search uses or that cannot be trusted, Interrupted for a signal, and
    Failure where the machine fails; what is finished is kept then.
    """
    begun = time.monotonic()
    with Lock(study.folder, "--study"), Signals() as signals, _kept(study.folder):
        check_tree(study.folder)
        mend_journal(study.folder)
        pool = WorkerPool(study, workers, watcher, tuple(plugins))
        try:
            while pool.fill():
                pool.wait()
                if signals.stop:
                    raise Interrupted(f"stopped; go on with --resume: {study.folder}", signals.stop)
                pool.look()
                watcher.update(SearchProgress(study, study.trials(), pool.running(), time.monotonic() - begun))
        finally:
            pool.dismiss()
        watcher.update(SearchProgress(study, study.trials(), [], time.monotonic() - begun))
        if study.ended:
            watcher.message(f"the search ends: {study.ended}")


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Failures of the machine end a search with what happened, what is kept and how to go on."""
    try:
        yield
    except (Failure, OSError) as error:
        raise Failure(f"{folder}: {error}; finished trials are kept, and --resume goes on") from error


class WorkerPool:
    """The workers of a search."""

    def __init__(self, study: Study, size: int, watcher: Watcher, plugins: tuple[Path, ...]) -> None:
        self._study, self._size, self._watcher, self._plugins = study, size, watcher, plugins
        short_temporary_folder()
        self._processes = ForkServer(PRELOAD)
        self._threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // size))
        self._left = study.own_running()  # begun by a search that was interrupted
        self._workers: list[Worker] = []

    def fill(self) -> bool:
        """Give every idle worker a trial; whether any is at work."""
        while len(self._workers) < self._size:
            trial = self._left.pop(0) if self._left else self._study.begin()
            if trial is None:
                break
            job = self._job(trial)
            self._workers.append(Worker(trial, job, self._start(job)))
        return bool(self._workers)

    def wait(self) -> None:
        """Until a worker ends or it is time for a look. Raises Failure where nothing tells of their ends any more."""
        wait([worker.process.sentinel for worker in self._workers], POLL)
        self._processes.check()

    def look(self) -> None:
        """Close the trials whose workers have ended, and stop those that fall behind."""
        for worker in list(self._workers):
            ended = worker.process.exitcode is not None
            self._judge(worker)
            if ended:
                self._close(worker)

    def running(self) -> list[Running]:
        """Where each running trial stands."""
        return [_standing(worker) for worker in self._workers]

    def dismiss(self) -> None:
        """Ask all workers to stop, and wait until they have."""
        stop([worker.process for worker in self._workers], GRACE)

    def _job(self, trial: Trial) -> TrialJob:
        settings, folder = self._study.definition.file.trial, self._study.trial_folder(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        candidate = self._study.candidate(trial)
        recipes = tuple(candidate.run(seed) for seed in range(settings.seeds))
        arguments = None if settings.evaluate is None else read_arguments(settings.evaluate)
        has_window = any(entry.window for entry in candidate.costs.plan.entries)
        return TrialJob(folder, recipes, arguments, tuple(settings.windows), has_window, self._threads, self._plugins)

    def _start(self, job: TrialJob) -> ForkServerProcess:
        return self._processes.start(work, job)

    def _close(self, worker: Worker) -> None:
        """Write down what a trial came to, or start it again where its worker died."""
        trial = worker.trial
        try:
            outcome = read_outcome(worker.job.folder)
        except UserError as error:
            outcome = Outcome([], str(error))
        if worker.process.exitcode == NO_ROOM:
            raise Failure(f"trial {trial.number}: {_last_line(worker.job.folder)}")
        if worker.behind:
            self._study.prune(trial, f"fell behind at step {worker.behind}")
        elif outcome:
            self._study.end(trial, outcome)
        elif _deaths(worker) <= RETRIES:
            self._watcher.message(f"trial {trial.number}: its worker {_how(worker.process)}; started again")
            worker.process = self._start(worker.job)
            return
        else:
            self._study.fail(trial, f"its worker {_how(worker.process)}, for the {worker.deaths}th time in a row")
        self._workers.remove(worker)

    def _judge(self, worker: Worker) -> None:
        """Stop a trial that falls behind at a rung it has reached."""
        settings = self._study.definition.file.pruner
        if settings is None or worker.behind:
            return
        steps = rungs(settings, worker.trial.number, worker.job.recipes[0].recipe.train.steps)
        found = running_losses(worker.job.run(0).metrics().lines, steps)
        trials = self._study.trials()
        told = trials[worker.trial.number].rungs
        if found.keys() <= told.keys():
            return
        self._study.storage.note(worker.trial.number, rungs=found)
        worker.behind = rung_to_stop_at(settings, found, (r for r in trials if r.number != worker.trial.number))
        if worker.behind:
            worker.process.terminate()


def _standing(worker: Worker) -> Running:
    """The seed that runs now, and its last step."""
    begun = [seed for seed in range(len(worker.job.recipes)) if worker.job.run(seed).begun]
    seed = max(begun, default=0)
    lines = [line for line in worker.job.run(seed).metrics().lines if "loss" in line]
    last: dict[str, Any] = lines[-1] if lines else {"step": 0, "loss": None}
    return Running(worker.trial, seed, last["step"], worker.job.recipes[seed].recipe.train.steps, last["loss"])


def _deaths(worker: Worker) -> int:
    """Count a death: the first, if the trial has come further since the one before."""
    runs = [worker.job.run(seed) for seed in range(len(worker.job.recipes))]
    reached = sum(max((checkpoint.step for checkpoint in run.checkpoints()), default=0) for run in runs)
    worker.deaths = 1 if reached > worker.reached else worker.deaths + 1
    worker.reached = reached
    return worker.deaths


def _last_line(folder: Path) -> str:
    """What a worker said last."""
    with suppress(OSError):
        if lines := (folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n"):
            return next((line for line in reversed(lines) if line.strip()), NO_WORDS)[:500]
    return NO_WORDS


def _how(process: ForkServerProcess) -> str:
    """How a process ended."""
    code = process.exitcode
    return f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
