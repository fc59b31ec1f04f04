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
from project import ROOT

FENCE = re.compile(r"(?:`([\w.]+)`:\n)?```(\w+)\n(.*?)```", re.DOTALL)  # after the name of a file: its content
STEPS = re.compile(r"(steps[:=] ?)\d+")
BIN = Path(sys.executable).parent


def run(command: str, folder: Path) -> None:
    """One line of the tutorial. What needs no process of its own is spared the imports of one."""
    words = shlex.split(command, comments=True)
    if "Ctrl-C" in command:
        interrupt(words, folder)
    elif words[0] == "hybridkit" and not {"--plugin", ">"} & set(words) and words[1:3] != ["search", "space.yaml"]:
        done = hybridkit(*words[1:], cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
    else:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        script = f'hybridkit() {{ python -m hybridkit.cli "$@"; }}\n{command}'
        shell = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
        assert shell.returncode == 0, (command, shell.stderr)


def interrupt(words: list[str], folder: Path) -> None:
    """Start a run, and press Ctrl-C once it has done a step."""
    metrics = folder / words[words.index("--run") + 1] / "metrics.jsonl"
    command = [sys.executable, "-m", "hybridkit.cli", *words[1:], "train.steps=1000000"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not (metrics.is_file() and metrics.read_bytes().count(b"\n")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
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
