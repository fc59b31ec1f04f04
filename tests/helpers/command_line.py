"""The command line in this process: exit code and both outputs, without the seconds that a process's imports take."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

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


def hybridkit_process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as a user starts it."""
    return subprocess.run([sys.executable, "-m", "hybridkit.cli", *words], capture_output=True, text=True, cwd=cwd)
