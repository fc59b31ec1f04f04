"""Runs one function at a time in a thread; its error is raised in the thread that waits for it."""

import threading
from collections.abc import Callable


class Background:
    """Runs one function in a thread; the process does not end before the function has."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin the work; no other may be running."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until the work has ended. Raises its error, once."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raises the error of work that has ended, once; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
