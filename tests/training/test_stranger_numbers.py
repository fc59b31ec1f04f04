"""Numbers in a stranger's run folder that no run has: refused in words, before anything is done with them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from reseal import reseal
from told import Go

from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    shutil.copytree(whole.path, tmp_path / "run")
    return Run(tmp_path / "run")


def change(folder: Path, file: str, **keys: Any) -> None:
    """Change a JSON file of a checkpoint, and let the manifest vouch for it."""
    content = json.loads((folder / file).read_text())
    content.pop("sha256", None)
    content |= keys
    sealed_too = {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
    (folder / file).write_text(json.dumps(content | sealed_too if file == "manifest.json" else content))
    if file != "manifest.json":
        reseal(folder)


NUMBERS = [("manifest.json", "threads"), ("manifest.json", "ranks"), ("manifest.json", "zero"), ("state.json", "step")]
NUMBERS += [("state.json", "position"), ("state.json", "scheduled"), ("state.json", "passed_over")]


@pytest.mark.parametrize(("file", "key"), NUMBERS)
@pytest.mark.parametrize("value", [2**70, -(2**70), 1e300, "1", [1]])
def test_numbers_that_no_run_has_are_refused(run: Run, go: Go, file: str, key: str, value: Any) -> None:
    for checkpoint in list(run.checkpoints()):
        change(checkpoint.folder, file, **{key: value})
    with pytest.raises(UserError, match=file.replace(".", r"\.")):
        go(run.path, "train.steps=13", resume=True)


def test_more_threads_than_a_machine_can_start_are_not_started(run: Run, go: Go) -> None:
    newest, threads = run.newest().checkpoint, torch.get_num_threads()
    assert newest
    change(newest.folder, "manifest.json", threads=60_000)
    assert "this run used 60000 threads" in go(run.path, "train.steps=13", resume=True)
    assert torch.get_num_threads() == threads
