"""One process a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from told import Go

from hybridkit.system.background import Background
from hybridkit.system.errors import UserError
from hybridkit.system.lock import Lock

HOLD = """
import sys, time
from pathlib import Path
from hybridkit.system.lock import Lock
with Lock(Path(sys.argv[1])):
    print(1, flush=True)
    time.sleep(60)
"""


def test_names_the_holder_and_dies_with_it(tmp_path: Path, go: Go) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            go(tmp_path)
        holder.kill()
    with Lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    with Lock(tmp_path):
        pass


def test_work_in_the_background_hands_its_error_over_once() -> None:
    background = Background()
    background.start(lambda: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        background.wait()
    background.wait()
    background.start(lambda: None)
    background.wait()
