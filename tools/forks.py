"""`hybridkit train` in processes that can be killed: fresh ones, or forks of this one, which start in milliseconds.

A fork runs the same command line as a fresh process, with every module imported already. What is forked has one
thread and has never computed anything, so that a fork cannot inherit a lock, a random state or a tensor.
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
READ_ONLY, REMOUNT, BIND, PRIVATE = 1, 1 << 5, 1 << 12, 1 << 14 | 1 << 18  # MS_...; the last one for all below


class Process:
    """One that trains. `errors` is the file of its standard error."""

    def __init__(self, pid: int, errors: Path) -> None:
        self._pid, self._errors = pid, errors

    def wait(self) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def kill_after(self, begun: Callable[[], bool], seconds: float) -> bool:
        """Send SIGKILL a while after it has begun; whether it was still running. It must not have failed by itself."""
        watched = os.pidfd_open(self._pid)
        while not begun() and not select.select([watched], [], [], 0.002)[0]:
            pass
        select.select([watched], [], [], seconds)  # less where it ends before
        os.close(watched)
        os.kill(self._pid, signal.SIGKILL)
        code = self.wait()
        assert code in (0, -signal.SIGKILL), f"the run failed by itself: {self.said}"
        return code != 0

    @property
    def said(self) -> str:
        """Its standard error."""
        return self._errors.read_text(encoding="utf-8")


class Command:
    """`hybridkit train RECIPE --resume`, each run with a cache of its own beside it."""

    def __init__(self, recipe: Path) -> None:
        self._recipe = recipe
        self._preload(recipe.parent / "scout")

    def fork(self, run: Path, *overrides: str, first: Callable[[], object] = lambda: None) -> Process:
        """In a fork of this process, which calls `first` before."""
        pid = os.fork()
        if pid == 0:
            self._become(run, overrides, first)
        return Process(pid, _errors(run))

    def fresh(self, run: Path, *overrides: str) -> Process:
        """In a new process, started as a user would."""
        command = [sys.executable, "-m", "hybridkit.cli", *self._arguments(run, overrides)]
        environment = {**os.environ, "HYBRIDKIT_CACHE": str(_cache(run))}
        with _errors(run).open("w", encoding="utf-8") as errors:
            started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        started.returncode = 0  # it is waited for here
        return Process(started.pid, _errors(run))

    def _arguments(self, run: Path, overrides: tuple[str, ...]) -> list[str]:
        return ["train", str(self._recipe), *overrides, "--run", str(run), "--resume"]

    def _become(self, run: Path, overrides: tuple[str, ...], first: Callable[[], object]) -> NoReturn:
        code = 70  # of a traceback
        try:
            for number, path in ((1, Path(os.devnull)), (2, _errors(run))):
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
        """Import whatever a run imports, as one of them found out; this process itself trains nothing."""
        import hybridkit.cli  # noqa: F401

        names = run.with_suffix(".modules")

        def note() -> None:
            leave = os._exit
            os._exit = lambda code: (names.write_text(json.dumps(list(sys.modules)), encoding="utf-8"), leave(code))  # type: ignore

        assert self.fork(run, "train.steps=2", first=note).wait() == 0
        for name in json.loads(names.read_text(encoding="utf-8")):
            importlib.import_module(name)
        assert len(os.listdir("/proc/self/task")) == 1, "what is forked must have one thread: set OMP_NUM_THREADS=1"


def _errors(run: Path) -> Path:
    return run.with_name(f"{run.name}.stderr")


def _cache(run: Path) -> Path:
    return run.with_name(f"{run.name}.cache")


class Mounts:
    """File systems seen by this process and its children alone. Every method raises OSError where that is forbidden."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._call("unshare", NEW_MOUNTS | (NEW_USER if os.getuid() else 0))
        self._call("mount", b"none", b"/", None, PRIVATE, None)

    def small(self, place: Path, size: int) -> None:
        """An empty disk of so many bytes at `place`."""
        self._call("mount", b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}".encode())

    def grow(self, place: Path, size: int) -> None:
        """Make room there, files staying."""
        self._call("mount", b"tmpfs", bytes(place), b"tmpfs", REMOUNT, f"size={size}".encode())

    def read_only(self, place: Path) -> None:
        """What is at `place` can no longer be changed."""
        self._call("mount", bytes(place), bytes(place), None, BIND, None)
        self._call("mount", b"none", bytes(place), None, BIND | REMOUNT | READ_ONLY, None)

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            number = ctypes.get_errno() or errno.EPERM
            raise OSError(number, f"{name}: {os.strerror(number)}")
