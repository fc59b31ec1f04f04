"""From one command to the ranks of a run: started here, or found in the environment of another launcher.

Torchrun and DeepSpeed's launcher say RANK, WORLD_SIZE and LOCAL_RANK; SLURM says the same in words of its own, which
are translated. Nothing here imports torch, so that what cannot run is refused before anything starts.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hybridkit.system.errors import Failure, Interrupted, MissingExtra, UserError
from hybridkit.recipe.schema import Recipe
from hybridkit.training.engines.deepspeed.config import check as check_deepspeed

PARENT = "HYBRIDKIT_PARENT"  # in the environment of ranks that this program started: its process number
REPORT = "HYBRIDKIT_REPORT"  # and an open file, to which they say what ended them: the parent prints it once
_FIRST_PORT, _PORTS = 20000, 20000  # of SLURM jobs: every node must choose the same without asking
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux's prctl
_HOST = re.compile(r"(\S+)\s+slots=([1-9][0-9]*)")


class Place(NamedTuple):
    """Where a process stands among the ranks of a run."""

    rank: int
    ranks: int


def place(environment: Mapping[str, str]) -> Place | None:
    """What a launcher says of this process; None where none started it. Raises UserError for what is no number."""
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
        if "SLURM_STEP_NUM_TASKS" in environment:  # set by srun alone
            return Place(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
    except (ValueError, KeyError) as error:
        raise UserError(f"RANK and WORLD_SIZE, or SLURM's words for them, are no ranks: {error}") from error
    return None


def begin(recipe: Recipe, ranks: int | None, hostfile: Path | None) -> None:
    """Return in a process that is to train as one rank; one that starts others ends with their exit code instead.

    Raises UserError, before any process starts, for what cannot run.
    """
    given = place(os.environ)
    hosts = read_hostfile(hostfile) if hostfile else None
    if given and ranks and given.ranks != ranks:
        raise UserError(f"--ranks {ranks}: this process was started as one of {given.ranks}; leave --ranks out")
    count = given.ranks if given else ranks or (sum(hosts.values()) if hosts else 1)
    check(recipe, count)
    if given or count == 1:
        settle(given or Place(0, 1))
    elif hostfile:
        _deepspeed(hostfile)
    else:
        from hybridkit.training.launch.spawn import spawn

        sys.exit(spawn(count))


@contextmanager
def as_rank() -> Iterator[int]:
    """Within, errors say which rank they come from; the number of this one.

    A signal reaches all ranks, and rank 0 speaks for them.
    """
    rank, ranks = place(os.environ) or Place(0, 1)
    try:
        yield rank
    except Interrupted as stopped:
        if rank:
            sys.exit(stopped.code)
        raise
    except Exception as error:
        if REPORT in os.environ and isinstance(error, UserError | Failure):
            os.write(int(os.environ[REPORT]), json.dumps(str(error)).encode() + b"\n")
            sys.exit(2 if isinstance(error, UserError) else 1)
        if ranks > 1:
            error.add_note(f"(rank {rank} of {ranks})")
        raise


def check(recipe: Recipe, ranks: int) -> None:
    """Whether a recipe can be trained by so many ranks. Raises UserError."""
    train = recipe.train
    if train.engine != "deepspeed":
        if ranks > 1:
            raise UserError(f"{ranks} ranks: train.engine: {train.engine} is one process; set train.engine=deepspeed")
        if train.sequence_parallel > 1:
            raise UserError(
                f"train.sequence_parallel: {train.sequence_parallel} ranks share a sequence only under"
                " train.engine=deepspeed"
            )
        return
    check_deepspeed(train)
    if ranks % train.sequence_parallel:
        raise UserError(f"train.sequence_parallel: {train.sequence_parallel} does not divide {ranks} ranks")
    replicas, rows = ranks // train.sequence_parallel, train.batch_tokens // recipe.data.sequence
    if replicas > rows:
        raise UserError(
            f"{ranks} ranks cannot share a batch of {rows} sequences (train.batch_tokens / data.sequence): use at most"
            f" {rows * train.sequence_parallel} ranks, or a larger train.batch_tokens"
        )


def read_hostfile(path: Path) -> dict[str, int]:
    """Ranks by host, from lines such as `node-1 slots=8`. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--hostfile {path}: no such file; it holds lines such as: node-1 slots=8")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.split("#")[0].strip()
        found = _HOST.fullmatch(text)
        if text and (not found or found[1] in hosts):
            raise UserError(f"{path}:{number}: a line names a host once, such as: node-1 slots=8; not {text[:60]!r}")
        if found:
            hosts[found[1]] = int(found[2])
    if not hosts:
        raise UserError(f"{path}: no host in it; it holds lines such as: node-1 slots=8")
    return hosts


def settle(where: Place) -> None:
    """Complete the environment of a rank to what torch and DeepSpeed read, and die with a parent of ours."""
    env = os.environ
    env["RANK"], env["WORLD_SIZE"] = str(where.rank), str(where.ranks)
    env.setdefault("LOCAL_RANK", env.get("SLURM_LOCALID", "0"))
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = first_host(env["SLURM_STEP_NODELIST"]) if "SLURM_STEP_NODELIST" in env else "127.0.0.1"
    if "MASTER_PORT" not in env:
        job = env.get("SLURM_JOB_ID")
        env["MASTER_PORT"] = str(_FIRST_PORT + int(job) % _PORTS if job else free_port())
    if PARENT in env and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
        if os.getppid() != int(env[PARENT]):  # it died before it was watched
            sys.exit(1)


def first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: `gpu[03-07,12],cpu1` begins with gpu03."""
    found = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    return found[1] + (found[2] or "") if found else nodes


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _deepspeed(hostfile: Path) -> None:
    """Become DeepSpeed's launcher, which starts this command on every host."""
    program = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise MissingExtra("deepspeed", "deepspeed")
    own = ["--no_local_rank", "--module", "hybridkit.cli", *sys.argv[1:]]
    os.execv(program, [program, "--hostfile", str(hostfile), *own])
