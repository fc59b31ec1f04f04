"""The tutorial, from its first command to its last, in an empty folder; with fewer steps than it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import hybridkit
from forked import COMMAND_LINE, Forked, forked
from project import ROOT

FENCE = re.compile(r"(?:`([\w.]+)`:\n)?```(\w+)\n(.*?)```", re.DOTALL)  # after the name of a file: its content
STEPS = re.compile(r"(steps[:=] ?)\d+")
BIN = Path(sys.executable).parent
RUN_FILE = "import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"


def run(command: str, folder: Path) -> None:
    """One line of the tutorial, in a process that need not import torch, or in this one, or in a shell."""
    words = shlex.split(command, comments=True)
    if "Ctrl-C" in command:
        return interrupt(words, folder)
    if words[0] == "python" and words[1:] and words[1] != "-c":
        done = forked(f"import sys; sys.path.insert(0, ''); {RUN_FILE}", *words[1:], cwd=folder)
    elif words[0] == "hybridkit" and "--plugin" in words:  # it would stay known in this process
        done = forked(COMMAND_LINE, *words[1:], cwd=folder)
    elif words[0] == "hybridkit" and ">" not in words:
        done = hybridkit(*words[1:], cwd=folder)
    else:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        script = f'hybridkit() {{ python -m hybridkit.cli "$@"; }}\n{command}'
        done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def interrupt(words: list[str], folder: Path) -> None:
    """Start a run, and press Ctrl-C once it has done a step."""
    metrics = folder / words[words.index("--run") + 1] / "metrics.jsonl"
    with Forked(COMMAND_LINE, *words[1:], "train.steps=1000000", cwd=folder) as process:
        while process.poll() is None and not (metrics.is_file() and metrics.read_bytes().count(b"\n")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130, said


@pytest.mark.slow
def test_every_command_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    for name, language, text in FENCE.findall((ROOT / "docs/tutorial.md").read_text()):
        assert (language == "bash") != bool(name), text
        few = STEPS.sub(r"\g<1>3", text)
        if name:
            (folder / name).write_text(few)
        for command in few.splitlines() if language == "bash" else ():
            run(command, folder)
    for made in (
        "runs/swax/checkpoints/step-3",
        "curves.png",
        "runs/swax/eval/report.html",
        "runs/own/plugins/shift.py",
    ):
        assert (folder / made).exists(), made
    assert (folder / "exported/config.json").exists() and "swa" in (folder / "best.yaml").read_text()
