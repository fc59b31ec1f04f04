"""Signals while a run trains: a step is never cut, and a run that ends early can be resumed.

SIGTERM, SIGINT: write a checkpoint after this step, and stop. SIGUSR1 (SLURM's warning): write one, and go on.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGTERM, signal.SIGINT)
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it


class Signals:
    """Within `with`, signals are recorded and do not end the process; a second SIGINT ends it at once (130)."""

    def __init__(self) -> None:
        self.stop = 0  # the number of the signal that asks to stop, 0 for none
        self.save = 0  # 1: a checkpoint is asked for
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = {number: signal.signal(number, self._note) for number in (*STOPPING, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.save = 1
        elif number == self.stop == signal.SIGINT:
            if os.isatty(2):
                os.write(2, SHOW_CURSOR)
            os._exit(128 + number)
        else:
            self.stop = number
