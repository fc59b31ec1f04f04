"""Ranks: who is one, what cannot run, and what happens when one dies."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import hybridkit
from forked import COMMAND_LINE, Forked, forked
from told import Go

from hybridkit.runs.run import Run, load_recipe
from hybridkit.system.errors import UserError
from hybridkit.system.lock import Lock
from hybridkit.training import ranks
from hybridkit.training.launch import launch, spawn
from hybridkit.training.ranks import Place, first_host

DEEPSPEED = "train.engine=deepspeed"
IMPORTS = "import deepspeed, torch._inductor.compile_fx"  # what the engine imports late: seconds, once for all ranks
# What `torchrun --standalone --nproc_per_node=2` does, but that its two workers are forked.
TORCHRUN = """
import os, traceback
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from hybridkit.cli import main
from hybridkit.training.engines.deepspeed.engine import DeepSpeedEngine

def broken(*_):
    raise RuntimeError("out of luck")

def rank():
    if os.environ["RANK"] == "1":
        DeepSpeedEngine.update = broken
    try:
        main()
    except Exception:
        traceback.print_exc()  # as the end of a process does; a forked one only tells its parent
        raise

how = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test", "max_restarts": 0}
elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", **how), rank)()
"""
# Ranks that need no start of Python: children of the launching process, which run the same command.
FORK_RANKS = """
import os, subprocess, sys
from types import SimpleNamespace
from hybridkit.cli import main
from hybridkit.training.launch import spawn

class Rank(subprocess.Popen):
    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        os.environ |= env
        code = 1
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

spawn.subprocess = SimpleNamespace(Popen=Rank, DEVNULL=subprocess.DEVNULL)
"""


def test_the_environment_says_who_is_who() -> None:
    assert ranks.place({}) is None
    assert ranks.place({"RANK": "1", "WORLD_SIZE": "4"}) == Place(1, 4)
    assert ranks.place({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}) == Place(3, 8)
    assert ranks.place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None, "a batch script is no rank"
    with pytest.raises(UserError, match="RANK"):
        ranks.place({"RANK": "one", "WORLD_SIZE": "4"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-07,12],cpu1", "gpu03"), ("node7", "node7"), ("a,b", "a"), ("n[9]", "n9"), ("rack-1-[2,4]", "rack-1-2")],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_one_process_leaves_its_environment_alone(recipe: Path) -> None:
    """Otherwise a later command of the same process would take itself for one that a launcher started."""
    before = dict(os.environ)
    launch.begin(load_recipe(recipe).recipe, None, None)
    assert dict(os.environ) == before


def test_slurms_words_become_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    said = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "70001"}
    for name, value in (said | {"SLURM_STEP_NODELIST": "gpu[03-04]"}).items():
        monkeypatch.setenv(name, value)
    place = ranks.place(os.environ)
    assert place
    ranks.settle(place)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["5", "8", "1", "gpu03", "30001"]


@pytest.mark.parametrize(
    ("overrides", "ranks", "says"),
    [
        ([], 2, "set train.engine=deepspeed"),
        (["train.sequence_parallel=2"], 1, "only under train.engine=deepspeed"),
        ([DEEPSPEED], 5, "at most 4 ranks"),
        ([DEEPSPEED, "train.sequence_parallel=3"], 4, "does not divide 4 ranks"),
        ([DEEPSPEED, "train.zero=0", "train.offload=optimizer"], 2, "train.zero of at least 1"),
        ([DEEPSPEED, "train.zero=2", "train.offload=all"], 2, "train.zero=3"),
        ([DEEPSPEED, "train.precision=fp64"], 2, "train.engine=local"),
        ([DEEPSPEED, "train.zero=3", "train.compile=true"], 2, "train.zero=2"),
        ([DEEPSPEED, "train.deepspeed={gradient_clipping: 5}"], 2, "contradicts train.clip"),
        ([DEEPSPEED, "train.deepspeed={zero_optimization: {stage: 3}}"], 2, "contradicts train.zero"),
        ([DEEPSPEED, "train.deepspeed={bf16: {enabled: true}}"], 2, "contradicts train.precision"),
        ([DEEPSPEED, "train.deepspeed={train_batch_size: 8}"], 2, "contradicts train.batch_tokens"),
        ([DEEPSPEED, "train.deepspeed={optimizer: {type: Lion}}"], 2, "contradicts train.lr"),
        ([DEEPSPEED, "train.deepspeed={csv_monitor: {enabled: true}}"], 2, "written elsewhere"),
        ([DEEPSPEED, "train.deepspeed={flops_profiler: {output_file: /tmp/x}}"], 2, "written elsewhere"),
        ([DEEPSPEED, "train.deepspeed={zero_optimization: 3}"], 2, "deepspeed: zero_optimization: should be a mapping"),
        ([DEEPSPEED, "train.deepspeed={zero_optimization: {nope: 2}}"], 2, "zero_optimization.nope is not known"),
        ([DEEPSPEED, "train.deepspeed={zero_optimization: {reduce_bucket_size: abc}}"], 2, "should be a whole number"),
        ([DEEPSPEED, "train.deepspeed={flops_profiler: 3}"], 2, "train.deepspeed: flops_profiler: DeepSpeed cannot"),
        ([DEEPSPEED, "train.deepspeed={wall_clock_breakdwn: true}"], 2, 'did you mean "wall_clock_breakdown"'),
        ([DEEPSPEED, "train.deepspeed={wall_clock_breakdown: 7}"], 2, "should be true or false, not 7"),
        ([DEEPSPEED, "train.deepspeed={gradient_predivide_factor: x}"], 2, "should be a number, not x"),
    ],
)
def test_what_cannot_run_is_refused(recipe: Path, overrides: list[str], ranks: int, says: str) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    with pytest.raises(UserError, match=says):
        launch.check_launch(load_recipe(recipe, overrides).recipe, ranks)


def test_what_deepspeed_may_be_told(recipe: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    said = "{zero_optimization: {stage: 1, overlap_comm: true}, bf16: {enabled: false}, wall_clock_breakdown: true}"
    launch.check_launch(load_recipe(recipe, [DEEPSPEED, f"train.deepspeed={said}"]).recipe, 4)


def test_the_missing_extra_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridkit.training.engines.deepspeed.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hybridkit\[deepspeed\]'"):
        launch.check_launch(load_recipe(recipe, [DEEPSPEED]).recipe, 2)


def test_hostfiles(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    with pytest.raises(UserError, match="no such file"):
        launch.read_hostfile(file)
    file.write_text("# a cluster\nnode-1 slots=8\n\nnode-2  slots=4  # half\n")
    assert launch.read_hostfile(file) == {"node-1": 8, "node-2": 4}
    for bad in ("node-1 8", "node-1 slots=0", "node-1 slots=1\nnode-1 slots=2"):
        file.write_text(bad)
        with pytest.raises(UserError, match=r"hosts:\d: a line names a host once"):
            launch.read_hostfile(file)
    file.write_text("# nobody\n")
    with pytest.raises(UserError, match="no host in it"):
        launch.read_hostfile(file)


@pytest.mark.slow
def test_a_dry_run_of_the_largest_recipe_says_what_it_takes(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    words = ("train", "swax-stochastic-7b", "--dry-run", "--ranks", "8", "--json")
    said = json.loads(hybridkit(*words, cwd=tmp_path).stdout)
    assert (said["zero"], said["ranks"], said["steps"]) == (3, 8, 143051)
    assert said["tokens"] == 143051 * 2**20
    assert said["memory"]["held"] == pytest.approx(16 * said["parameters"] / 8, rel=1e-6), "four fp32 numbers a weight"
    assert said["flops"] == pytest.approx(said["flops_per_token"] * said["tokens"])


@pytest.mark.slow
def test_ranks_are_new_processes_that_run_the_same_command() -> None:
    """Elsewhere here they are forked, which spares them the imports."""
    code = "import sys; from hybridkit.training.launch.spawn import spawn; sys.exit(spawn(2))"
    ended = forked(code, "--help", OMP_NUM_THREADS="1")
    assert (ended.returncode, ended.stdout.count("Usage:")) == (0, 2), ended.stderr


@pytest.mark.slow
def test_killed_ranks_end_the_run_and_other_ranks_go_on(go: Go, recipe: Path, tmp_path: Path) -> None:
    """Two ranks of stage 3, one killed; then one rank of stage 1, to the end."""
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    steps = ["train.steps=24", "train.lr=3e-3"]
    go(whole.path, *steps)
    began = ["train", str(recipe), *steps, DEEPSPEED, "--run", str(run.path)]
    printed, said = _killed(run, [*began, "train.zero=3", "--ranks", "2"], 6)
    assert printed.count("step 1/24  loss") == 1, "rank 0 alone prints"
    assert "rank 1 was killed by SIGKILL" in said and "--resume" in said
    assert (manifest := run.newest().manifest) and (manifest.zero, manifest.ranks) == (3, 2)
    last = forked(COMMAND_LINE, *began, "train.zero=1", "--resume", OMP_NUM_THREADS="1")
    assert last.returncode == 0 and "step 24/24  loss" in last.stdout, last.stderr
    lines, expected = ([line for line in r.metrics().lines if "loss" in line] for r in (run, whole))
    for key in ("step", "window", "lr", "tokens"):
        assert [line[key] for line in lines] == [line[key] for line in expected]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in lines] == pytest.approx([line[key] for line in expected], abs=1e-5)
    assert lines[-1]["peak_memory"] > 0 and lines[-1]["mfu"] > 0
    manifest = run.newest().manifest
    assert manifest and (manifest.engine, manifest.zero, manifest.ranks) == ("deepspeed", 1, 1)


def test_of_ranks_that_ended_at_once_the_killed_one_is_named() -> None:
    ended = [subprocess.Popen(["sh", "-c", code]) for code in ("exit 0", "exit 1", "kill -9 $$", "exit 1")]
    assert [process.wait() for process in ended] == [0, 1, -9, 1]
    assert [spawn._first_failed(ended[:n]) for n in range(1, 5)] == [None, 1, 2, 2]


def _killed(run: Run, words: list[str], step: int) -> tuple[str, str]:
    """Kill the last rank once a step is done; what all print, and what they leave on standard error within seconds."""
    with Forked(f"{FORK_RANKS}{IMPORTS}\n{COMMAND_LINE}", *words, OMP_NUM_THREADS="1") as process:
        while process.poll() is None and not any(line["step"] >= step for line in run.metrics().lines):
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        printed, said = process.communicate(timeout=20)
    assert process.returncode == 1
    return printed, said


@pytest.mark.slow
def test_an_exception_names_its_rank(recipe: Path, tmp_path: Path) -> None:
    """Started by torchrun's agent, where rank 1 alone cannot go on."""
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    words = ("train", str(recipe), DEEPSPEED, "--run", str(tmp_path / "run"))
    ended = forked(f"{IMPORTS}\n{TORCHRUN}", *words, OMP_NUM_THREADS="1")
    assert ended.returncode == 1
    assert "out of luck" in ended.stderr and "(rank 1 of 2)" in ended.stderr


@pytest.mark.slow
def test_what_all_ranks_refuse_is_said_once(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    words = ("train", str(recipe), DEEPSPEED, "--ranks", "2", "--run", str(tmp_path / "run"))
    ended = forked(FORK_RANKS + COMMAND_LINE, *words, OMP_NUM_THREADS="1")
    assert ended.returncode == 2
    assert ended.stderr.count("holds a run; go on with it with --resume") == 1 and "Traceback" not in ended.stderr


class Rank:
    """One of two ranks, as far as the beginning of a run asks: what one of them refuses, both know."""

    ranks = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def all_reduce_max(self, value: int) -> int:
        return 1


def test_what_rank_0_refuses_ends_the_others_without_a_word(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A folder in use is rank 0's to see; the other one is told that there is a refusal."""
    (tmp_path / "run").mkdir()
    for rank, refusal in enumerate((UserError, SystemExit)):
        monkeypatch.setattr("hybridkit.training.trainer.open_engine", lambda *_, rank=rank: Rank(rank))
        with Lock(tmp_path / "run"), pytest.raises(refusal) as raised:
            go(tmp_path / "run")
        assert f"is in use by process {os.getpid()}" in str(raised.value) if rank == 0 else raised.value.code == 2
    assert capfd.readouterr() == ("", "")
