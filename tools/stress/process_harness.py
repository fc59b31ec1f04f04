"""`hybridkit train` in processes that can be killed: new ones, or forks of this one, which start in milliseconds.

A fork runs the same command line as a new process, with all modules already imported. The process that is forked has
one thread and computes nothing, so that a fork inherits no lock, no random state and no tensor. Imported by
`fault_injection.py` and by tests.
"""

import ctypes
import errno
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS and CLONE_NEWUSER of Linux
READ_ONLY, REMOUNT, BIND, PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14 | 1 << 18  # MS_... of Linux; PRIVATE includes MS_REC


class Process:
    """A process that trains. `errors` is the file of its standard error."""

    def __init__(self, pid: int, errors: Path) -> None:
        self._pid, self._stderr_file = pid, errors

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the number of the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def kill_after(self, begun: Callable[[], bool], seconds: float) -> bool:
        """Send SIGKILL `seconds` after `begun` is true; whether it was still running. The run must not have failed."""
        watched = os.pidfd_open(self._pid)
        while not begun() and not select.select([watched], [], [], 0.002)[0]:
            pass
        select.select([watched], [], [], seconds)  # returns early if the process ends
        os.close(watched)
        os.kill(self._pid, signal.SIGKILL)
        code = self.wait()
        assert code in (0, -signal.SIGKILL), f"the run failed without a fault: {self.stderr}"
        return code != 0

    @property
    def stderr(self) -> str:
        """Its standard error."""
        return self._stderr_file.read_text(encoding="utf-8")


class Command:
    """`hybridkit train RECIPE --resume`; each run has its own cache beside it."""

    def __init__(self, recipe: Path) -> None:
        self._recipe = recipe
        self._preload(recipe.parent / "scout")

    def fork(self, run: Path, *overrides: str, first: Callable[[], object] = lambda: None) -> Process:
        """Run in a fork of this process, which first calls `first`."""
        pid = os.fork()
        if pid == 0:
            self._run_in_fork(run, overrides, first)
        return Process(pid, _stderr_file(run))

    def fresh(self, run: Path, *overrides: str) -> Process:
        """Run in a new process, as a user would start it."""
        command = [sys.executable, "-m", "hybridkit.cli", *self._arguments(run, overrides)]
        environment = {**os.environ, "HYBRIDKIT_CACHE": str(_cache(run))}
        with _stderr_file(run).open("w", encoding="utf-8") as errors:
            started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        started.returncode = 0  # `Process.wait` waits instead of subprocess
        return Process(started.pid, _stderr_file(run))

    def _arguments(self, run: Path, overrides: tuple[str, ...]) -> list[str]:
        return ["train", str(self._recipe), *overrides, "--run", str(run), "--resume"]

    def _run_in_fork(self, run: Path, overrides: tuple[str, ...], first: Callable[[], object]) -> NoReturn:
        code = 70  # of an exception
        try:
            for number, path in ((1, Path(os.devnull)), (2, _stderr_file(run))):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.environ["HYBRIDKIT_CACHE"] = str(_cache(run))
            sys.argv = ["hybridkit", *self._arguments(run, overrides)]
            first()
            from hybridkit.cli import main

            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _preload(self, run: Path) -> None:
        """Import all modules that a run imports, as listed by a run in a fork; this process itself does not train."""
        import hybridkit.cli  # noqa: F401

        names = run.with_suffix(".modules")

        def note() -> None:
            leave = os._exit
            os._exit = lambda code: (names.write_text(json.dumps(list(sys.modules)), encoding="utf-8"), leave(code))  # type: ignore

        assert self.fork(run, "train.steps=2", first=note).wait() == 0
        for name in json.loads(names.read_text(encoding="utf-8")):
            importlib.import_module(name)
        assert len(os.listdir("/proc/self/task")) == 1, "this process must have one thread: set OMP_NUM_THREADS=1"


def _stderr_file(run: Path) -> Path:
    return run.with_name(f"{run.name}.stderr")


def _cache(run: Path) -> Path:
    return run.with_name(f"{run.name}.cache")


class Mounts:
    """File systems that only this process and its children see. All methods raise OSError where this is forbidden."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._call("unshare", NEW_MOUNTS | (NEW_USER if os.getuid() else 0))
        self._call("mount", b"none", b"/", None, PRIVATE, None)

    def small(self, place: Path, size: int) -> None:
        """Mount an empty disk of `size` bytes at `place`."""
        self._call("mount", b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}".encode())

    def grow(self, place: Path, size: int) -> None:
        """Enlarge the disk at `place`; its files stay."""
        self._call("mount", b"tmpfs", bytes(place), b"tmpfs", REMOUNT, f"size={size}".encode())

    def read_only(self, place: Path) -> None:
        """Make `place` read-only."""
        self._call("mount", bytes(place), bytes(place), None, BIND, None)
        self._call("mount", b"none", bytes(place), None, BIND | REMOUNT | READ_ONLY, None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            number = ctypes.get_errno() or errno.EPERM
            raise OSError(number, f"{name}: {os.strerror(number)}")
