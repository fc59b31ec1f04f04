"""Signals that are noted, and the second Ctrl-C that is not."""

import signal
import subprocess
import sys

import pytest

AGAIN = """
import os, signal
from hybridkit.system.signals import Signals
with Signals() as signals:
    for number in {numbers}:
        os.kill(os.getpid(), number)
    print(signals.stop, signals.save, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("numbers", "said", "code"),
    [
        ([signal.SIGINT], "2 0", -signal.SIGTERM),
        ([signal.SIGTERM, signal.SIGTERM], "15 0", -signal.SIGTERM),
        ([signal.SIGUSR1, signal.SIGUSR1], "0 1", -signal.SIGTERM),
        ([signal.SIGINT, signal.SIGINT], "", 130),
    ],
)
def test_noted_until_the_second_ctrl_c(numbers: list[int], said: str, code: int) -> None:
    program = AGAIN.format(numbers=[int(number) for number in numbers])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (said, code), done.stderr
