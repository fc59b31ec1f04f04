"""A worker process: it trains and evaluates one trial, as ordinary run folders.

A worker writes only into its trial's folder, and its outcome last and atomically. So it may be killed at any time.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hybridkit.evaluation.probes import probes_of
from hybridkit.recipe.files import Loaded
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.search.objectives import evaluation_tree, merged_tables, run_metrics
from hybridkit.search.outcome import OUTCOME, Outcome
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import refuse_links
from hybridkit.system.terminal import say
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import run_training

LOG = "log.txt"
EXIT_CANNOT_WRITE = 74  # exit code of a worker whose disk is full or gone (EX_IOERR)
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class TrialJob:
    """A trial to run, with a recipe for each seed."""

    folder: Path
    recipes: tuple[Loaded, ...]
    questions: tuple[tuple[str, ...], ...]  # arguments of `hybridkit eval`, for each evaluation
    windows: tuple[int, ...]  # at test time
    has_window: bool  # whether the model has any
    threads: int
    plugins: tuple[Path, ...]

    def run(self, seed: int) -> Run:
        """The run folder of a seed, from 0."""
        return Run(self.folder / f"seed-{seed}")


def run_job(job: TrialJob) -> None:
    """Run a job in this process, which ends if the process that started it ends."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    refuse_links([job.folder / LOG])
    sys.stdout = sys.stderr = (job.folder / LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    torch.set_num_threads(job.threads)
    for plugin in job.plugins:
        REGISTRY.add(plugin)
    try:
        write_whole(job.folder / OUTCOME, json.dumps(_outcome(job).__dict__).encode())
    except Interrupted as error:  # by a signal: the trial can be resumed
        sys.exit(error.code)
    except (Failure, OSError) as error:  # not caused by the trial
        with suppress(OSError):
            say(error)
        sys.exit(EXIT_CANNOT_WRITE)


def _outcome(job: TrialJob) -> Outcome:
    """Run the trial. Raises Interrupted, and Failure or OSError where the disk is full or gone."""
    try:
        return Outcome([_run(job, seed) for seed in range(len(job.recipes))])
    except Interrupted:
        raise
    except (UserError, Failure, OSError) as error:
        if _is_disk_error(error):
            raise
        return Outcome([], str(error))
    except Exception as error:  # a plug-in may raise any exception; the study continues
        traceback.print_exc()
        return Outcome([], f"{type(error).__name__}: {error} (see {job.folder / LOG})")


def _is_disk_error(error: BaseException | None) -> bool:
    """Whether the cause of an error is a disk that is full or gone."""
    while error is not None:
        if getattr(error, "errno", None) in _DISK_ERRORS or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__
    return False


def _run(job: TrialJob, seed: int) -> dict[str, Any]:
    run = job.run(seed)
    recipe = job.recipes[seed]
    run_training(recipe, run.path, resume=True, reporter=Silent(), callbacks=probes_of(recipe))
    found: dict[str, Any] = dict(run_metrics(run))
    if job.questions:
        answers = (_evaluate(run, job, question) for question in job.questions)
        found["eval"] = merged_tables(evaluation_tree(answer, job.windows, str(run.path)) for answer in answers)
    return found


def _evaluate(run: Run, job: TrialJob, question: Sequence[str]) -> Any:
    """The output of `hybridkit eval RUN --json`. Raises Failure."""
    words = [*question, *(word for file in job.plugins for word in ("--plugin", str(file)))]
    if job.windows and job.has_window and "--windows" not in question:
        words += ["--windows", ",".join(map(str, job.windows))]
    command = [sys.executable, "-P", "-m", "hybridkit.cli", "eval", str(run.path), *words, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=env)
    if done.returncode:
        raise Failure(f"eval {run.path}: {done.stderr.strip().removeprefix('hybridkit: ')}")
    return json.loads(done.stdout)


def _watch_parent() -> None:
    """End this process when the search or the fork server ends; a resumed search continues this trial."""
    parent, server = multiprocessing.parent_process(), os.getppid()
    assert parent is not None
    while not multiprocessing.connection.wait([parent.sentinel], 1.0) and os.getppid() == server:
        pass
    os._exit(1)
