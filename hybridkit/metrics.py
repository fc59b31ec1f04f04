"""Reading metrics.jsonl: one JSON object a line, each with its `step`; `loss` and others of a step, or `val_loss`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAX_LINE = 2**20  # bytes
MAX_STEP = 2**53


class Metrics(NamedTuple):
    """What could be read, and how many lines could not."""

    lines: list[dict[str, Any]]
    damaged: int


def read_metrics(path: Path) -> Metrics:
    """All lines of a metrics file that hold a step, in order; an absent file has none."""
    if not path.exists():
        return Metrics([], 0)
    lines = list(_lines(path))
    good = [line for line in lines if line is not None]
    return Metrics(good, len(lines) - len(good))


def _lines(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open("rb") as file:
        while text := file.readline(MAX_LINE):
            yield _parsed(text)


def _parsed(text: bytes) -> dict[str, Any] | None:
    """The line, or None where it is damaged. A line without its end was cut, even if it happens to parse."""
    if not text.endswith(b"\n"):
        return None
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    step = line.get("step") if isinstance(line, dict) else None
    return line if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < MAX_STEP else None
