"""A file is written as a whole, or what stood there stays."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest

from hybridkit.system.files import FileOperations, write_whole


def _full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_rename_that_fails_leaves_no_part_either(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        write_whole(tmp_path / "folder", b"new")
    assert caught.value.filename == str(tmp_path / "folder") and list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_file_that_cannot_be_written_whole_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state"
    write_whole(file, b"old")
    monkeypatch.setattr(FileOperations, "write", _full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"new")
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (b"old", [file])
