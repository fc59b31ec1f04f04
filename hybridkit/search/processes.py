"""Worker processes: forked from a server that has imported torch and done nothing else, so that one starts at once.

The server hears of its children's ends and tells; a search whose server dies knows nothing of its workers any more. It
stops them and ends, and `--resume` goes on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from hybridkit.system.errors import Failure, UserError

LONGEST = 70  # bytes of a temporary folder: a socket's whole path has at most 107, of which names take 35
SHORT = ("/tmp", "/var/tmp", "/dev/shm", "/run/shm")
POLL = 0.1  # seconds


class ForkServer:
    """Starts workers, and says when their server has died."""

    def __init__(self, preload: Sequence[str]) -> None:
        _shorten_sockets()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def start(self, target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        """A process that runs `target`. Raises Failure where the server has died."""
        process = self._context.Process(target=target, args=arguments)
        try:
            process.start()
        except (EOFError, ConnectionError) as error:
            raise Failure(_DEAD) from error
        return process

    def check(self) -> None:
        """Raises Failure where the server has died."""
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # nothing public says it
        if server is not None and _ended(server):
            raise Failure(_DEAD)


_DEAD = "the process from which workers start has died, killed by somebody or for want of memory"


def stop(processes: Sequence[ForkServerProcess], grace: float) -> None:
    """Ask processes to stop, wait until they have, and kill what has not after `grace` seconds.

    By number, not through their server, which may have died.
    """
    left = {process.pid for process in processes if process.pid is not None and process.exitcode in (None, 255)}
    _send(left, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while left := {number for number in left if _alive(number)}:
        if time.monotonic() > deadline:
            _send(left, signal.SIGKILL)
            break
        time.sleep(POLL)
    for process in processes:
        process.join(1.0)


def _send(numbers: set[int], what: signal.Signals) -> None:
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, what)


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):  # one that has ended may stand in the table until its parent asks
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return True


def _ended(child: int) -> bool:
    """Whether a child of this process has ended; it is left for whoever waits for it."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _shorten_sockets() -> None:
    """Have multiprocessing keep its sockets in a folder whose path is short enough for them. Raises UserError."""
    if len(os.fsencode(tempfile.gettempdir())) <= LONGEST:
        return
    before = tempfile.tempdir
    try:
        for folder in SHORT:
            if os.access(folder, os.W_OK | os.X_OK):
                tempfile.tempdir = folder
                multiprocessing.util.get_temp_dir()  # it asks tempfile once, and then remembers
                return
    finally:
        tempfile.tempdir = before
    raise UserError(f"TMPDIR: {before} is too long for a socket, and none of {', '.join(SHORT)} can be written")
