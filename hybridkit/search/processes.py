"""Worker processes, forked from a server process that has only imported torch, so that a worker starts at once.

The server reports when a worker ends. If the server dies, these reports are missing: the search stops its workers and
ends, and `--resume` continues it.
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

_TMPDIR_BYTES = 70  # a socket's path has at most 107 bytes, of which multiprocessing's names take up to 35
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/shm")
_POLL = 0.1  # seconds between looks at processes that should stop
_UNKNOWN = 255  # multiprocessing's exit code of a process whose server has died; the process may be running
_SERVER_DIED = "the process from which workers start has died, killed by somebody or for want of memory"


class ForkServer:
    """Starts worker processes."""

    def __init__(self, preload: Sequence[str]) -> None:
        _shorten_socket_paths()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def start(self, target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        """A process that runs `target`. Raises Failure where the server has died."""
        process = self._context.Process(target=target, args=arguments)
        try:
            process.start()
        except (EOFError, ConnectionError) as error:
            raise Failure(_SERVER_DIED) from error
        return process

    def has_ended(self, process: ForkServerProcess) -> bool:
        """Whether a process that was started here has ended. Raises Failure where the server has died before it."""
        if process.exitcode == _UNKNOWN:
            raise Failure(_SERVER_DIED)
        return process.exitcode is not None

    def check(self) -> None:
        """Raises Failure where the server has died."""
        server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # there is no public name
        if server is not None and _has_ended(server):
            raise Failure(_SERVER_DIED)


def stop_processes(processes: Sequence[ForkServerProcess], grace: float) -> None:
    """Ask processes to stop, wait until they have ended, and kill those that still run after `grace` seconds.

    They are signalled and watched by process id, since their server may have died.
    """
    running = {process.pid for process in processes if process.pid is not None and process.exitcode in (None, _UNKNOWN)}
    _send(running, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while running := {pid for pid in running if _is_alive(pid)}:
        if time.monotonic() > deadline:
            _send(running, signal.SIGKILL)
            break
        time.sleep(_POLL)
    for process in processes:
        process.join(1.0)


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):  # a process that has ended is still listed until its parent has waited for it
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return True


def _has_ended(child: int) -> bool:
    """Whether a child of this process has ended; its exit code stays for whoever waits for it."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _shorten_socket_paths() -> None:
    """Make multiprocessing put its sockets into a folder with a short path, if TMPDIR's is long. Raises UserError."""
    if len(os.fsencode(tempfile.gettempdir())) <= _TMPDIR_BYTES:
        return
    before = tempfile.tempdir
    try:
        for folder in _SHORT_FOLDERS:
            if os.access(folder, os.W_OK | os.X_OK):
                tempfile.tempdir = folder
                multiprocessing.util.get_temp_dir()  # asks tempfile once and keeps the answer
                return
    finally:
        tempfile.tempdir = before
    folders = ", ".join(_SHORT_FOLDERS)
    raise UserError(f"TMPDIR: {before} is too long for the path of a socket, and none of {folders} can be written")
