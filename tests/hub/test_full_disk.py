"""Where a folder cannot be written: one message that names it, and nothing is left behind."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest
from checkpoint import run_of
from command_line import hybridkit

from hybridkit.system.files import FileOperations

MESSAGES = {errno.ENOSPC: "No space left on device", errno.EROFS: "Read-only file system"}


def refuse(number: int) -> NoReturn:
    raise OSError(number, MESSAGES[number], ".hidden.part")


def test_a_full_disk_in_an_export_or_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of("sa", tmp_path / "run")
    assert hybridkit("export", "run", "theirs", cwd=tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(FileOperations, "tensors", lambda *words: refuse(errno.ENOSPC))
    for words in (["export", "run", "new"], ["export", "run", "new", "--format", "hybridkit"],
                  ["import", "theirs", "--run", "new"]):  # fmt: skip
        done = hybridkit(*words, cwd=tmp_path)
        said = "hybridkit: new: it cannot be written, and nothing of it is kept: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_may_not_be_written_and_a_file_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of("sa", tmp_path / "run")
    (tmp_path / "file").write_text("kept")
    for words in (["export", "run", "file/new"], ["import", "run", "--run", "file/new"]):
        done = hybridkit(*words, cwd=tmp_path)
        assert done.returncode == 2 and ".part" not in done.stderr, done.stderr
    done = hybridkit("eval", "run", "--out", "file/new", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "hybridkit: --out file/new: file: a file, not a folder\n")
    assert (tmp_path / "file").read_text() == "kept"
    monkeypatch.setattr(Path, "mkdir", lambda *words, **more: refuse(errno.EROFS))
    done = hybridkit("export", "run", "new", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "") and "hybridkit: new: it cannot be written" in done.stderr
