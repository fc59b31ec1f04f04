"""Processes that begin at once: forked from one that has imported hybridkit and torch and has computed nothing.

They are processes like any other: with own signals, environment, outputs and exit code, and they end as Python does.
Only what a start itself imports, and `python -m`, is left out; `command_line.hybridkit_process` is for that.

Run as a script, this file is the process that they are forked from: a line of JSON asks for a child or for its end.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND_LINE = "from hybridkit.cli import main; main()"
VERBS = ("train", "eval", "generate", "show", "export", "bench", "convert")


class Forked:
    """A process that runs `code` with `sys.argv[1:] = words`; used as subprocess.Popen is."""

    def __init__(self, code: str, *words: str, cwd: Path | None = None, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._outputs = [Path(self._folder.name, name) for name in ("out", "err")]
        self.returncode: int | None = None
        self.pid: int = _ask(
            code=code,
            words=["hybridkit", *words],
            cwd=str(cwd or Path.cwd()),
            environment={**os.environ, **environment},
            outputs=[str(path) for path in self._outputs],
        )

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(wait=self.pid, options=options)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Both outputs, after the end. Raises TimeoutError where it has not come after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} runs after {timeout} seconds")
            time.sleep(0.005)
        out, err = (path.read_text(encoding="utf-8") for path in self._outputs)
        return out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind:
            self.kill()
        self.poll(options=0)
        self._folder.cleanup()


def forked(code: str, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`code` run to its end with these words and outputs."""
    with Forked(code, *words, cwd=cwd, **environment) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode or 0, out, err)


@cache
def _server() -> subprocess.Popen[str]:
    import torch

    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin and server.stdout
    server.stdin.close()
    server.stdout.close()
    server.wait()


def _ask(**request: Any) -> Any:
    server = _server()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    """Answer requests; return in a child, with what it has to run."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], request["options"])
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            return _become(request)
        print(json.dumps(answer), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Turn this process, a child, into the one that was asked for."""
    for number, path in enumerate((os.devnull, *request["outputs"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.argv = request["words"]
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    exec(compile(request["code"], "<forked>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.remove(str(Path(__file__).parent))
    from hybridkit.search.scheduler import PRELOAD

    for module in ("hybridkit.api.runs", *PRELOAD, *(f"hybridkit.cli.{verb}" for verb in VERBS)):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # no child looks at these objects, not at its end either
    _serve()
