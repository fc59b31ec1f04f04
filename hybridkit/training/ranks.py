"""The rank of this process, from the environment that a launcher sets. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from typing import NamedTuple

from hybridkit.system.errors import UserError

PARENT = "HYBRIDKIT_PARENT"  # in the environment of ranks that this program started: its process number
REPORT = "HYBRIDKIT_REPORT"  # and an open file for their errors, which the parent prints once
_FIRST_PORT, _PORTS = 20000, 20000  # of SLURM jobs: every node must choose the same one by itself
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Place(NamedTuple):
    """The number of a process, and how many there are."""

    rank: int
    ranks: int


def place(environment: Mapping[str, str]) -> Place | None:
    """The rank of this process, as its launcher set it; None if no launcher did. Raises UserError for wrong values."""
    try:
        if "RANK" in environment and "WORLD_SIZE" in environment:
            return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
        if "SLURM_STEP_NUM_TASKS" in environment:  # set by srun alone
            return Place(int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"]))
    except (ValueError, KeyError) as error:
        raise UserError(
            f"the environment variables RANK and WORLD_SIZE (or SLURM's) should be whole numbers: {error}"
        ) from error
    return None


def count() -> int:
    """How many processes share this run."""
    found = place(os.environ)
    return found.ranks if found else 1


def settle(where: Place) -> None:
    """Set what torch and DeepSpeed read from the environment; a rank that this program started ends with its parent."""
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
        if os.getppid() != int(env[PARENT]):  # the parent ended before
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
