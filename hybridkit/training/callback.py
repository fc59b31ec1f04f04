"""What happens during training, for whoever wants to know: progress bars, TensorBoard, tests of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybridkit.system.errors import Failure, Interrupted, UserError

Line = Mapping[str, Any]  # of metrics.jsonl


class Start(NamedTuple):
    """Where training begins or goes on."""

    run: Path  # its folder
    step: int  # done so far
    steps: int  # of the whole run
    lines: Sequence[Line]  # of metrics.jsonl so far


class Callback:
    """Is told what happens, on rank 0. A subclass overrides what it wants to know; nothing here does anything."""

    def on_start(self, start: Start) -> None:
        """Training begins, or goes on with a run."""

    def on_rollback(self, start: Start) -> None:
        """A spike led back to an earlier step: the lines after it are gone."""

    def on_step(self, line: Line, bits_per_byte: float | None) -> None:
        """An update was made: its line of metrics.jsonl, and the training loss in bits per byte."""

    def on_validation(self, line: Line) -> None:
        """The held-out text was evaluated: its line of metrics.jsonl."""

    def on_checkpoint(self, folder: Path, step: int) -> None:
        """A checkpoint is complete."""

    def on_end(self) -> None:
        """Training stops, for whatever reason."""


class Callbacks:
    """Several callbacks, told in order. What one of them raises ends the run with a message that names it."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def tell(self, event: str, *said: Any) -> None:
        """Call the method `event` of each. Raises Failure, or OSError for what a callback could not write."""
        for callback in self._callbacks:
            try:
                getattr(callback, event)(*said)
            except (UserError, Failure, Interrupted):
                raise
            except OSError as error:
                raise OSError(error.errno, f"{_name(callback)}: {error.strerror or error}") from error
            except Exception as error:
                raise Failure(f"{_name(callback)}, {event}: {type(error).__name__}: {error}") from error


def _name(callback: Callback) -> str:
    return f"callback {type(callback).__name__}"
