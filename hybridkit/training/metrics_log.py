"""metrics.jsonl while a run is trained: what was measured at every step and validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, BinaryIO, Self

from hybridkit.runs.run import Run
from hybridkit.system.files import FILES, write_whole

SHOWN = 3  # stretches of missing steps that are named


class MetricsLog:
    """Appends lines to metrics.jsonl; `cut` opens it. `damaged`: how many lines could not be read, and were dropped."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file: BinaryIO | None = None
        self.damaged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def cut(self, step: int) -> Sequence[Mapping[str, Any]]:
        """Drop the lines after `step`, and go on behind those that stay, which are returned. Raises OSError."""
        self._close()
        found = self._run.metrics()
        self.damaged = found.damaged
        kept = [line for line in found.lines if line["step"] <= step]
        write_whole(self._run.metrics_file, b"".join(map(_line, kept)))
        self._file = self._run.metrics_file.open("ab")
        return kept

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line. Raises OSError."""
        assert self._file
        FILES.write(self._file, _line(line))

    def sync(self) -> None:
        """Wait until the lines so far are on the disk."""
        FILES.fsync(self._run.metrics_file)

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def missing_steps(lines: Sequence[Mapping[str, Any]], steps: int) -> str:
    """Which of the steps from 1 on have no line, in words such as `1 to 4, 7`; empty where each has one."""
    known = sorted({line["step"] for line in lines if "loss" in line and 0 < line["step"] <= steps})
    edges = [0, *known, steps + 1]
    gaps = [(before + 1, after - 1) for before, after in pairwise(edges) if after - before > 1]
    said = [str(first) if first == last else f"{first:,} to {last:,}" for first, last in gaps[:SHOWN]]
    return ", ".join(said) + (f" and {len(gaps) - SHOWN} more stretches" if len(gaps) > SHOWN else "")


def _line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"
