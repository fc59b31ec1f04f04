"""Whatever write fails, or is the last before a kill: a valid checkpoint stays, and the run goes on from it."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same
from told import Go

from hybridkit.runs.run import Run
from hybridkit.system import files
from hybridkit.system.errors import Failure
from hybridkit.system.files import FileOperations
from hybridkit.training import checkpoint, metrics_log

SHORT = ("pattern=swa:4", "model.ffn=null", "data.validation=.02", "train.batch_tokens=32")
SHORT += ("train.steps=2", "train.checkpoint_every=1", "train.keep=1")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the program runs after it, no clean-up either."""


class Faulty(FileOperations):
    """Counts the operations, and raises at one of them, which is left half done."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.count, self._at, self._error = 0, at, error

    def _reach(self, work: Callable[[], Any], half: Callable[[], Any]) -> None:
        self.count += 1
        if self.count == self._at:
            half()
            raise self._error
        work()

    def write(self, file: Any, data: bytes) -> None:
        whole = super().write
        self._reach(lambda: whole(file, data), lambda: whole(file, data[: len(data) // 2]))

    def tensors(self, path: Path, tensors: Any) -> None:
        whole = super().tensors
        self._reach(lambda: whole(path, tensors), lambda: path.write_bytes(b"\x08"))

    def fsync(self, path: Path) -> None:
        whole = super().fsync
        self._reach(lambda: whole(path), lambda: None)

    def rename(self, old: Path, new: Path) -> None:
        whole = super().rename
        self._reach(lambda: whole(old, new), lambda: None)

    def remove(self, folder: Path) -> None:
        whole = super().remove
        self._reach(lambda: whole(folder), lambda: next(folder.iterdir()).unlink())


def put(monkeypatch: pytest.MonkeyPatch, faulty: FileOperations) -> None:
    from hybridkit.training.engines.local import engine

    for module in (files, checkpoint, metrics_log, engine):
        monkeypatch.setattr(module, "FILES", faulty)


@pytest.fixture(scope="module")
def short(go: Go, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int]:
    """An uninterrupted run, and how many operations it takes."""
    run, counting = Run(tmp_path_factory.mktemp("short") / "run"), Faulty(0, Killed())
    with pytest.MonkeyPatch.context() as patch:
        put(patch, counting)
        go(run.path, *SHORT)
    return run, counting.count


@pytest.mark.slow
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_any_operation_may_fail_or_be_the_last(
    short: tuple[Run, int], go: Go, tmp_path: Path, error: BaseException
) -> None:
    whole, operations = short
    assert operations > 30
    for at in range(1, operations + 1):
        run = Run(tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            put(patch, Faulty(at, error))
            with pytest.raises((Killed, Failure)) as stopped:
                go(run.path, *SHORT)
        if isinstance(error, OSError):
            assert "No space left on device" in str(stopped.value)
            assert not list(run.checkpoint_folder.glob(".step-*.part"))
        go(run.path, *SHORT, resume=True)
        assert_same(run, whole)
        assert not list(run.checkpoint_folder.glob(".*"))
        shutil.rmtree(run.path)


@pytest.mark.slow
def test_keep_and_keep_every(go: Go, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    go(run.path, "train.checkpoint_every=1", "train.steps=11", "train.keep=2", "train.keep_every=4")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [11, 10, 8, 4]
