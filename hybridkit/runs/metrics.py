"""Reading metrics.jsonl: one JSON object a line, each with its `step`; `loss` and others of a step, or `val_loss`.

A loss is null where a step or validation had no targets.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from hybridkit.system.strict_json import parse_json

MAX_LINE = 2**20  # bytes
MAX_NUMBER = 2**63  # of whole numbers, steps included
FIGURES = ("loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_second", "mfu", "peak_memory")
MEASURED = ("val_", "probe.")  # beginnings of the names of metrics of validations and probes
NULL = ("loss", *MEASURED)  # beginnings of the names of metrics that may be null


def last_steps(steps: int) -> int:
    """Of how many last steps the mean is called a run's loss: a tenth, at most 50, not the fall before."""
    return min(50, -(-steps // 10))


def recent_loss(losses: Sequence[float]) -> float | None:
    """A run's loss, of the losses of all steps that have one; None without any."""
    return mean(losses[-last_steps(len(losses)) :]) if losses else None


class Metrics(NamedTuple):
    """What could be read, and how many lines could not."""

    lines: list[dict[str, Any]]
    damaged: int


def read_metrics(path: Path) -> Metrics:
    """All lines of a metrics file that hold a step, in order; what is no regular file has none.

    `FIGURES` are finite numbers wherever a line holds them, or null where `NULL` says so.
    """
    if not path.is_file():
        return Metrics([], 0)
    good, damaged = list[dict[str, Any]](), 0
    for line in _lines(path):
        if line is None:
            damaged += 1
        else:
            good.append(line)
    return Metrics(good, damaged)


def last_line(path: Path, name: str) -> dict[str, Any] | None:
    """The last line of a metrics file that holds this metric; None where its last `MAX_LINE` bytes have none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_LINE))
        lines = file.read().splitlines(keepends=True)
    return next((line for line in map(_parsed, reversed(lines)) if line and name in line), None)


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open("rb") as file:
        while text := file.readline(MAX_LINE):
            yield _parsed(text)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """The line, or None where it is damaged. A line without its end was cut, even if it happens to parse."""
    if not text.endswith(b"\n"):
        return None
    try:
        line = parse_json(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not all(_figure(key, value) for key, value in line.items()):
        return None
    return line if _step(line.get("step")) and all(map(_small, line.values())) else None


def _figure(name: str, value: Any) -> bool:
    """Whether a metric of this name may have this value; a name that is no metric may have any."""
    if name not in FIGURES and not name.startswith(MEASURED):
        return True
    return name.startswith(NULL) if value is None else _number(value)


def _number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _small(value: Any) -> bool:
    return not isinstance(value, int) or -MAX_NUMBER < value < MAX_NUMBER
