"""TensorBoard's files of a run, made from the lines of metrics.jsonl."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from hybridkit.training.callback import Callback, Line, Start

FOLDER = "tensorboard"


class TensorBoard(Callback):
    """Keeps one event file in `tensorboard/`, in place of any that the folder held."""

    def __init__(self) -> None:
        self._board: _EventFile | None = None

    def on_start(self, start: Start) -> None:
        self.on_end()
        self._board = _EventFile(start.run / FOLDER)
        for line in start.lines:
            self._board.add(line)
        self._board.flush()

    def on_rollback(self, start: Start) -> None:
        self.on_start(start)

    def on_step(self, line: Line, bits_per_byte: float | None) -> None:
        self._add(line)

    def on_validation(self, line: Line) -> None:
        self._add(line)

    def on_probe(self, line: Line) -> None:
        self._add(line)

    def on_end(self) -> None:
        if self._board:
            self._board.close()
            self._board = None

    def _add(self, line: Line) -> None:
        assert self._board
        self._board.add(line)
        self._board.flush()


class _EventFile:
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

    def add(self, line: Line) -> None:
        """The numbers of a metrics line as scalars at its step."""
        numbers = {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        event = self._event(wall_time=time.time(), step=line["step"], summary=self._summary(value=values))
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()
