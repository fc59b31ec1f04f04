"""A lock on a folder, for one process at a time. The system releases it when the process ends, however it ends."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from hybridkit.system.errors import UserError
from hybridkit.system.links import refuse_links


class Lock:
    """Holds `folder`/.lock within `with`. Raises UserError, naming the holder, where another process has it.

    `option`: the verb's option that names another folder, for the message.
    """

    def __init__(self, folder: Path, option: str = "--run") -> None:
        self._folder, self._path, self._option = folder, folder / ".lock", option

    def __enter__(self) -> Self:
        self._file = self._held()
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def remove(self) -> None:
        """Delete the lock file. Only while the lock is held."""
        self._path.unlink(missing_ok=True)

    def _held(self) -> TextIO:
        """The lock file, open and locked. One that its last holder has just removed excludes nobody: then try again."""
        while True:
            # Never through a link: the process number would be written into whatever file it leads to.
            refuse_links([self._path])
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.lstat()):
                    return file
            except BlockingIOError as error:
                holder = file.read(32).strip() or "unknown"
                file.close()
                busy = f"{self._folder} is in use by process {holder}"
                raise UserError(f"{busy}; wait for it, or name another folder with {self._option}") from error
            file.close()
