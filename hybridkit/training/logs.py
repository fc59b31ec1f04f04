"""The two logs of a run: metrics.jsonl, which is the truth, and TensorBoard's files, which are made from it."""

import json
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hybridkit.runs.run import Run
from hybridkit.system.files import FILES, write_whole


class Logs:
    """Appends to both logs, which begin as those of the first `step` steps; the lines after it are dropped.

    `damaged`: how many lines could not be read, and are dropped too.
    """

    def __init__(self, run: Run, step: int) -> None:
        self._run = run
        self.damaged = self._cut(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, line: dict[str, Any]) -> None:
        """One line to both. Raises OSError."""
        FILES.write(self._metrics, _line(line))
        self._board.add(line)
        self._board.flush()

    def sync(self) -> None:
        """Wait until the lines so far are on the disk."""
        FILES.fsync(self._run.metrics_file)

    def cut(self, step: int) -> None:
        """Drop the lines after `step`."""
        self._close()
        self._cut(step)

    def _cut(self, step: int) -> int:
        found = self._run.metrics()
        kept = [line for line in found.lines if line["step"] <= step]
        write_whole(self._run.metrics_file, b"".join(map(_line, kept)))
        self._board = Board(self._run.tensorboard)
        for line in kept:
            self._board.add(line)
        self._board.flush()
        self._metrics = self._run.metrics_file.open("ab")
        return found.damaged

    def _close(self) -> None:
        self._metrics.close()
        self._board.close()


class Board:
    """A TensorBoard event file, in place of any that the folder held."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._event, self._summary = Event, Summary
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.hybridkit").open("wb")
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def add(self, line: dict[str, Any]) -> None:
        """The numbers of a metrics line as scalars at its step."""
        numbers = {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        event = self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values))
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Hand everything to the system."""
        self._records.flush()

    def close(self) -> None:
        """Done."""
        self._records.close()


def _line(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
