"""Searches that train in worker processes, some of which are killed."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from forked import Forked
from plugins import block_file
from spaces import SEQUENCES, new_study

from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.search import worker
from hybridkit.search.outcome import Outcome
from hybridkit.search.processes import ForkServer, stop_processes
from hybridkit.search.scheduler import SearchProgress, run_search
from hybridkit.search.storage import repair_journal
from hybridkit.search.study import open_study, resume
from hybridkit.system.errors import Failure, Interrupted, UserError
from hybridkit.system.lock import Lock

SEARCH = """
import sys
from pathlib import Path
from types import SimpleNamespace
from hybridkit.search.scheduler import run_search
from hybridkit.search.study import open_study
run_search(open_study(Path(sys.argv[1])), 2, SimpleNamespace(update=lambda _: None, message=print))
"""
TRIAL = "trial: {steps: 20, seeds: 2}\nsampler: random\ntrials: 2\n"


class Signaller:
    """A display that sends a signal to a worker, or to the process of the search, once a trial has made a step."""

    def __init__(self, number: int, kills: int, whole_search: bool = False) -> None:
        self._number, self.left, self._whole_search = number, kills, whole_search
        self.messages: list[str] = []
        self._killed: set[int | None] = set()

    def update(self, progress: SearchProgress) -> None:
        under_way = any(running.step for running in progress.running)
        victims = {process.pid for process in multiprocessing.active_children()} - self._killed
        if self.left and under_way and victims:
            self.left -= 1
            victim = max(filter(None, victims))
            self._killed.add(victim)
            os.kill(os.getpid() if self._whole_search else victim, self._number)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.search.scheduler.POLL_SECONDS", 0.05)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def losses(run: Run) -> list[float]:
    return [line["loss"] for line in run.metrics().lines if "loss" in line]


@pytest.mark.slow
def test_after_kills_of_workers_every_step_is_there_once(tmp_path: Path) -> None:
    text = SEQUENCES + TRIAL.replace("seeds: 2", "seeds: 1")
    calm, killed = (new_study(tmp_path, text, name) for name in ("calm", "killed"))
    run_search(calm, 1, Signaller(0, 0))
    signaller = Signaller(signal.SIGKILL, 2)
    run_search(killed, 2, signaller)
    assert signaller.left == 0 and sum("SIGKILL" in text for text in signaller.messages) == 2
    assert [trial.state for trial in killed.trials()] == ["done"] * 2
    assert [trial.params for trial in killed.trials()] == [trial.params for trial in calm.trials()]
    assert [trial.values for trial in killed.trials()] == [trial.values for trial in calm.trials()]
    runs = sorted(path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").glob("trials/*/seed-*"))
    assert len(runs) == 2
    for run in runs:
        assert losses(Run(tmp_path / "killed" / run)) == losses(Run(tmp_path / "calm" / run)) != []


@pytest.mark.slow
def test_an_interrupted_search_continues_its_running_trials(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + TRIAL)
    with pytest.raises(Interrupted, match="--resume") as caught:
        run_search(study, 2, Signaller(signal.SIGTERM, 1, whole_search=True))
    assert caught.value.code == 143
    assert not multiprocessing.active_children()
    assert any(trial.state == "running" for trial in study.trials())
    again = open_study(tmp_path / "study")
    run_search(again, 2, Signaller(0, 0))
    assert [trial.state for trial in again.trials()] == ["done"] * 2
    assert {len(losses(Run(path))) for path in (tmp_path / "study").glob("trials/*/seed-*")} == {20}


@pytest.mark.slow
def test_a_pruned_trial_has_a_checkpoint_to_continue_from(tmp_path: Path) -> None:
    text = """
extends: base.yaml
space: {train.lr: [3e-2, 3e-3, 1e-6, 2e-6]}
trial: {steps: 60, train: {min_lr: 0, schedule: constant, checkpoint_every: 1000, validate_every: 1000}}
pruner: {min_steps: 10, factor: 2}
sampler: grid
"""
    study = new_study(tmp_path, text)
    run_search(study, 1, Signaller(0, 0))
    states = {trial.params["train.lr"]: trial.state for trial in study.trials()}
    assert states[0.03] == "done"
    assert states[1e-6] == states[2e-6] == "pruned"
    pruned = next(trial for trial in study.trials() if trial.state == "pruned")
    run = Run(study.trial_folder(pruned.number) / "seed-0")
    assert "step 10" in pruned.reason and 10 <= len(losses(run)) < 60
    assert run.newest().checkpoint, "a stopped run has a checkpoint"


@pytest.mark.slow
def test_a_failed_trial_has_a_reason_and_the_study_continues(no_plugins: None, tmp_path: Path) -> None:
    """With a block that a plug-in brings, which the worker is told of."""
    text = """
extends: base.yaml
space:
  data.sequence: [2, 16]
  pattern: [nothing, mlstm]
sampler: grid
"""
    (tmp_path / "nothing.py").write_text(block_file("Nothing"))
    REGISTRY.add(tmp_path / "nothing.py", named=True)
    study = new_study(tmp_path, text)
    run_search(study, 1, Signaller(0, 0), REGISTRY.plugins)
    failed, done = study.trials()
    assert failed.state == "failed" and "data.sequence" in failed.reason, "recall asks for more than two tokens"
    assert done.state == "done"


@pytest.mark.slow
def test_a_full_disk_ends_the_search_but_fails_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path, SEQUENCES + TRIAL)
    monkeypatch.setattr("hybridkit.search.scheduler.run_job", _full_disk)
    with pytest.raises(Failure, match=r"No space left on device; finished trials are kept"):
        run_search(study, 1, Signaller(0, 0))
    assert [trial.state for trial in study.trials()] == ["running"]


def _full_disk(job: worker.TrialJob) -> None:
    def train(*_: object, **__: object) -> None:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise Failure(f"run: {error}") from error

    worker.run_training = train  # type: ignore[assignment]
    worker.run_job(job)


def test_two_searches_of_a_folder_at_once_are_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + TRIAL)
    with Lock(study.folder), pytest.raises(UserError, match=r"in use by process \d+; .*--study"):
        run_search(study, 1, Signaller(0, 0))
    with Lock(study.folder), pytest.raises(UserError, match="in use"):
        resume(study.definition, study.folder)


@pytest.mark.slow
def test_an_incomplete_line_of_the_journal_is_removed(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + "trial: {steps: 2}\nsampler: random\ntrials: 2\n")
    first = study.begin()
    assert first
    study.end(first, Outcome([{"val_loss": 1.0}]))
    journal = study.folder / "journal.log"
    for cut in (b'{"op_code": 5, "wor', b"x" * 70_000):
        journal.write_bytes(journal.read_bytes() + cut)
        repair_journal(study.folder)
        assert journal.read_bytes().endswith(b"}\n")
    run_search(open_study(study.folder), 1, Signaller(0, 0))
    assert [trial.state for trial in study.trials()] == ["done", "done"]


@pytest.mark.slow
def test_workers_end_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + TRIAL.replace("steps: 20", "steps: 100000"))
    deadline = time.monotonic() + 300  # a busy machine imports slowly
    locks = [study.trial_folder(number) / "seed-0" / ".lock" for number in range(2)]
    with Forked(SEARCH, str(study.folder), OMP_NUM_THREADS="1") as whole_search:
        while time.monotonic() < deadline and not all(lock.exists() and lock.read_text().strip() for lock in locks):
            time.sleep(0.1)
        workers = [int(lock.read_text()) for lock in locks]
        whole_search.kill()
    while time.monotonic() < deadline and any(map(_alive, workers)):
        time.sleep(0.1)
    assert not any(map(_alive, workers))
    assert [trial.state for trial in study.trials()] == ["running"] * 2
    assert len(study.own_running()) == 2, "--resume continues them"


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class ServerKiller(Signaller):
    """Kills the server that forks the workers, once a trial has made a step."""

    def __init__(self) -> None:
        super().__init__(signal.SIGKILL, 1)
        self.workers: list[int] = []

    def update(self, progress: SearchProgress) -> None:
        if self.left and any(running.step for running in progress.running):
            self.left = 0
            self.workers = [process.pid for process in multiprocessing.active_children() if process.pid]
            os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_search_whose_fork_server_is_killed_ends_with_a_message_and_can_be_resumed(tmp_path: Path) -> None:
    study = new_study(tmp_path, SEQUENCES + TRIAL.replace("steps: 20", "steps: 200"))
    killer = ServerKiller()
    with pytest.raises(Failure, match=r"workers start has died.*finished trials are kept, and --resume goes on"):
        run_search(study, 1, killer)
    assert killer.workers and not any(map(_alive, killer.workers)), "no worker is left behind"
    assert len(study.own_running()) == 1


def test_a_worker_whose_server_died_is_not_taken_for_ended() -> None:
    """Its exit code is unknown, whether or not the death of the server was noticed before."""
    process = ForkServer([]).start(time.sleep, 60)
    try:
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert wait([process.sentinel], 60)
        with pytest.raises(Failure, match="workers start has died"):
            ForkServer([]).has_ended(process)
    finally:
        stop_processes([process], 60)
    assert not _alive(process.pid or 0)


def test_sockets_have_a_short_path_whatever_TMPDIR_is(tmp_path: Path) -> None:
    """In a new process, since multiprocessing asks for its folder once."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    code = "from hybridkit.search.processes import ForkServer\n"
    code += "process = ForkServer([]).start(print, 'begun')\nprocess.join()\nprint(process.exitcode)"
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["begun", "0"], done.stderr
