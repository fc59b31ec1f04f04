"""The command line in this process: exit code and both outputs, without the seconds that a process's imports take."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from hybridkit.cli import main


def hybridkit(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`hybridkit words...` run in the folder `cwd`. What `--plugin` names stays known: use a process for that."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["hybridkit", *words])
        with pytest.raises(SystemExit) as left:
            main()
    return subprocess.CompletedProcess(words, int(left.value.code or 0), out.getvalue(), err.getvalue())


def outputs(*words: str) -> tuple[int, str, str]:
    """Exit code and both outputs of a command in the present folder."""
    done = hybridkit(*words, cwd=Path.cwd())
    return done.returncode, done.stdout, done.stderr


def reported(*words: str) -> dict[str, Any]:
    """What a command that succeeds gives with --json, and it says nothing else."""
    code, out, err = outputs(*words, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def hybridkit_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as a user starts it."""
    return subprocess.run([sys.executable, "-m", "hybridkit.cli", *words], capture_output=True, text=True, cwd=cwd)
