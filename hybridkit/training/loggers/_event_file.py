"""TensorBoard's event file of a run, made from the lines of metrics.jsonl."""

from __future__ import annotations

import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridkit.recipe.files import dump
from hybridkit.recipe.schema import Recipe
from hybridkit.training.callback import Callback, Line, TrainingStart
from hybridkit.training.logger import tagged, written_texts

FOLDER = "tensorboard"
_HEADER = struct.Struct("<QI")  # of a record: bytes of its data, and their number's checksum; one of the data follows


class EventWriter(Callback):
    """Keeps one event file in `tensorboard/`, in place of any that the folder held."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._board: _EventFile | None = None

    def on_start(self, start: TrainingStart) -> None:
        self.on_end()
        folder = start.run / FOLDER
        times = wall_times(folder)
        self._board = _EventFile(folder)
        self._board.text("recipe", f"```yaml\n{dump(self._recipe)}```", 0, None)
        for line in start.lines:
            self._board.add(line, times.get(line["step"]))
        self._board.flush()

    def on_rollback(self, start: TrainingStart) -> None:
        self.on_start(start)

    def on_line(self, line: Line) -> None:
        assert self._board
        self._board.add(line)
        self._board.flush()

    def on_end(self) -> None:
        if self._board:
            self._board.close()
            self._board = None


class _EventFile:
    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.summary.writer.record_writer import RecordWriter

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._event, self._summary, self._tensor = Event, Summary, TensorProto
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        self._is_text = SummaryMetadata(plugin_data=plugin)
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.hybridkit").open("wb")
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def add(self, line: Line, when: float | None = None) -> None:
        """A metrics line: numbers as scalars at its step, and what a probe wrote; `when`: seconds of the clock."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in tagged(line)]
        self._write(values, line["step"], when)
        if said := "\n\n".join(f"{one['prompt']}**{one['text']}**" for one in written_texts(line)):
            self.text("probe/written", said, line["step"], when)

    def text(self, tag: str, said: str, step: int, when: float | None) -> None:
        """A text, which TensorBoard reads as Markdown."""
        held = self._tensor(dtype="DT_STRING", string_val=[said.encode()])
        self._write([self._summary.Value(tag=tag, metadata=self._is_text, tensor=held)], step, when)

    def _write(self, values: list[Any], step: int, when: float | None) -> None:
        event = self._event(wall_time=when or time.time(), step=step, summary=self._summary(value=values))
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def wall_times(folder: Path) -> dict[int, float]:
    """When each step was written, in seconds of the clock, as far as the event files of a folder can be read."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[int, float] = {}
    try:
        for file in sorted(folder.glob("events.out.tfevents.*")):
            for data in _records(file.read_bytes()):
                event = Event.FromString(data)
                found.setdefault(event.step, event.wall_time)
    except (OSError, DecodeError):
        return found
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """The data of the records of a file; one that was cut off ends them."""
    place = 0
    while place + _HEADER.size <= len(data):
        length, _ = _HEADER.unpack_from(data, place)
        begin = place + _HEADER.size
        place = begin + length + 4
        if place <= len(data):
            yield data[begin : begin + length]
