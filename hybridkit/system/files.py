"""The file operations of a training run, in one object. Tests replace it by one that fails or ends the process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hybridkit.system.errors import Failure, UserError
from hybridkit.system.links import refuse_links

if TYPE_CHECKING:  # pages and metrics are written without it
    from torch import Tensor


class FileOperations:
    """The file operations that change a run folder."""

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Write and flush to the system. Raises OSError."""
        file.write(data)
        file.flush()

    def tensors(self, path: Path, tensors: dict[str, Tensor]) -> None:
        """Write a safetensors file, with the permissions that the user's new files have. Raises OSError."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path.touch()
        mode = path.stat().st_mode & 0o777  # save_file puts a file that only its owner may read in its place
        try:
            save_file(tensors, path, metadata={"format": "pt"})
            path.chmod(mode)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error

    def fsync(self, path: Path) -> None:
        """Wait until a file, or a folder's list of names, is on the disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Move within a file system, atomically."""
        old.rename(new)

    def remove(self, folder: Path) -> None:
        """Delete a folder and what is in it."""
        shutil.rmtree(folder)


FILES = FileOperations()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: whoever reads it finds the old content or the new one, never a part.

    Raises UserError where it is a symbolic link, and OSError.
    """
    part = _part(path)
    try:
        with part.open("wb") as file:
            FILES.write(file, data)
        FILES.fsync(part)
        FILES.rename(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename, error.filename2 = str(path), None  # the name that the caller knows
        raise
    FILES.fsync(path.parent)


def check_can_write(path: Path, option: str) -> None:
    """Raises UserError where `write_whole` could not write the file that an option names."""
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; name a file")
    part = _part(path)
    try:
        part.open("wb").close()
        part.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: it cannot be written: {error.strerror}") from error


def _part(path: Path) -> Path:
    """The file that is written in place of another until it is whole. Raises UserError for symbolic links."""
    part = path.with_name(f".{path.name}.part")
    refuse_links([path, part])
    return part


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes `folder`; nothing is left where that fails.

    Raises UserError where a file is in the way, and Failure where the folder cannot be made or the disk is full.
    """
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        yield part
        FILES.rename(part, folder)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: a file is in the way; name another folder") from error
    except OSError as error:
        raise Failure(
            f"{folder}: it cannot be written, and nothing of it is kept: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
