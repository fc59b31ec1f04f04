"""What a worker process does: one trial, as ordinary run folders that can be resumed, evaluated and generated from.

A worker writes into its trial's folder alone, its outcome last and in one act: it can be killed at any time.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter

from hybridkit.recipe.files import Loaded
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.manifest import parse_json
from hybridkit.runs.run import Run
from hybridkit.search.objectives import evaluation_tree, measure
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.files import write_whole
from hybridkit.system.links import refuse_links
from hybridkit.system.terminal import say
from hybridkit.training.reporter import Silent
from hybridkit.training.trainer import train

OUTCOME, LOG = "outcome.json", "log.txt"
NO_ROOM = 74  # the exit code of a worker that cannot write: EX_IOERR
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class TrialJob:
    """A trial to run: a recipe for each seed."""

    folder: Path
    recipes: tuple[Loaded, ...]
    evaluate: tuple[str, ...] | None  # arguments of `hybridkit eval`
    windows: tuple[int, ...]  # at test time
    has_window: bool  # whether the model has any
    threads: int
    plugins: tuple[Path, ...]

    def run(self, seed: int) -> Run:
        """The run folder of a seed, counted from 0."""
        return Run(self.folder / f"seed-{seed}")


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: for each seed its figures (METRICS, and `eval` where there was one), or why it failed."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # for one that is read

    seeds: list[dict[str, Any]]
    error: str | None = None


_OUTCOME = TypeAdapter(Outcome)


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the trial in a folder, if it has come to its end. Raises UserError for a damaged one."""
    file = folder / OUTCOME
    if not file.is_file():
        return None
    try:
        outcome: Outcome = _OUTCOME.validate_python(parse_json(file.read_bytes()))
    except ValueError as error:
        raise UserError(f"{file} is damaged; remove it: {str(error)[:200]!a}") from error
    return outcome


def work(job: TrialJob) -> None:
    """Run a job in this process, which ends with the process that started it."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    refuse_links([job.folder / LOG])
    sys.stdout = sys.stderr = (job.folder / LOG).open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
    torch.set_num_threads(job.threads)
    for plugin in job.plugins:
        REGISTRY.add(plugin)
    try:
        write_whole(job.folder / OUTCOME, json.dumps(_outcome(job).__dict__).encode())
    except Interrupted as error:  # by a signal: to be gone on with
        sys.exit(error.code)
    except (Failure, OSError) as error:  # no fault of the trial
        with suppress(OSError):
            say(error)
        sys.exit(NO_ROOM)


def _outcome(job: TrialJob) -> Outcome:
    """What the trial comes to. Raises Interrupted, and Failure or OSError where the disk is full or gone."""
    try:
        return Outcome([_run(job, seed) for seed in range(len(job.recipes))])
    except Interrupted:
        raise
    except (UserError, Failure, OSError) as error:
        if _no_room(error):
            raise
        return Outcome([], str(error))
    except Exception as error:  # a plug-in's block may raise anything; the study goes on
        traceback.print_exc()
        return Outcome([], f"{type(error).__name__}: {error} (see {job.folder / LOG})")


def _no_room(error: BaseException | None) -> bool:
    """Whether a disk that is full or gone led to an error."""
    while error is not None:
        if getattr(error, "errno", None) in _DISK or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__
    return False


def _run(job: TrialJob, seed: int) -> dict[str, Any]:
    run = job.run(seed)
    train(job.recipes[seed], run.path, resume=True, reporter=Silent())
    found: dict[str, Any] = dict(measure(run))
    if job.evaluate is not None:
        found["eval"] = evaluation_tree(_evaluate(run, job), job.windows)
    return found


def _evaluate(run: Run, job: TrialJob) -> Any:
    """What `hybridkit eval RUN --json` prints. Raises Failure."""
    words = [*(job.evaluate or ()), *(word for file in job.plugins for word in ("--plugin", str(file)))]
    if job.windows and job.has_window:
        words += ["--windows", ",".join(map(str, job.windows))]
    command = [sys.executable, "-P", "-m", "hybridkit.cli", "eval", str(run.path), *words, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=env)
    if done.returncode:
        raise Failure(f"eval {run.path}: {done.stderr.strip().removeprefix('hybridkit: ')}")
    return json.loads(done.stdout)


def _watch_parent() -> None:
    """End with the leading process or the server that forked this one: a resumed search starts this trial again."""
    parent, server = multiprocessing.parent_process(), os.getppid()
    assert parent is not None
    while not multiprocessing.connection.wait([parent.sentinel], 1.0) and os.getppid() == server:
        pass
    os._exit(1)
