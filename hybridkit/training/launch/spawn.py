"""Ranks as processes of this machine: started together, watched, and ended together."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from types import FrameType
from typing import IO

from hybridkit.system.errors import Failure, UserError
from hybridkit.training.ranks import PARENT, REPORT, free_port

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
GRACE = 2.0  # seconds that the other ranks have to report their errors after one has failed
POLL = 0.05  # seconds


def spawn(ranks: int) -> int:
    """Run this same command as so many ranks, and wait; returns their exit code.

    Raises the error of the ranks, once where all raised the same, and Failure, naming the rank, where one was killed;
    the others are then ended, too.
    """
    with tempfile.TemporaryFile("a+b") as report:
        return _spawn(ranks, report)


def _spawn(ranks: int, report: IO[bytes]) -> int:
    port = free_port()
    processes = [_start(rank, ranks, port, report.fileno()) for rank in range(ranks)]

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    try:
        failed = _watch(processes)
    finally:
        for process in processes:
            process.kill()
    code = processes[failed].wait() if failed is not None else 0
    report.seek(0)
    if code in (1, 2) and (said := dict.fromkeys(map(json.loads, report))):
        raise (UserError if code == 2 else Failure)("\n".join(said))
    if code < 0:
        raise Failure(f"rank {failed} was killed by {signal.Signals(-code).name}; --resume goes on from a checkpoint")
    if code == 1:
        raise Failure(f"rank {failed} failed, which ends the run; --resume goes on from the last checkpoint")
    return code


def _start(rank: int, ranks: int, port: int, report: int) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // ranks)
    env = {"OMP_NUM_THREADS": str(threads), **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), PARENT: str(os.getpid())}
    env[REPORT] = str(report)
    command = [sys.executable, "-P", "-m", "hybridkit.cli", *sys.argv[1:]]
    # A group of its own, so that a terminal's signals reach it once: through the parent.
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, process_group=0, pass_fds=[report])


def _watch(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Until all have ended, or GRACE after the first that failed: its rank, None where none did."""
    failed, deadline = None, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL)
        if failed is None:
            failed = _first_failed(processes)
            deadline = time.monotonic() + GRACE if failed is not None else deadline
    return _first_failed(processes) if failed is None else failed


def _first_failed(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """The rank that failed, if one did. Of several at once one that a signal killed: the others fail because of it."""
    codes = {rank: code for rank, process in enumerate(processes) if (code := process.poll())}
    return min(codes, key=lambda rank: codes[rank] > 0, default=None)
