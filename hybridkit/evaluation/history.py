"""Evaluations add up in results.json: the newest one, and a list of earlier ones.

An earlier answer is removed once the same question was asked again of the same run (by its fingerprint), under the same
settings.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.system.errors import Failure

RESULTS, EARLIER = "results.json", "earlier"
HARNESS = "harness"  # the settings of the harness's tasks, which no other figure depends on
MAX_HISTORY_BYTES = 1 << 28


class _Open(TypedDict):
    """Keys of any row that tables read; further keys are kept."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    window: int | None
    loss: float | None
    tokens: int


class _Text(_Open):
    perplexity: float | None
    bits_per_byte: float | None
    tokens_per_second: float | None


class _Bin(_Open):
    run: str
    first: int
    last: int
    gain: float | None


class _Settings(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    haystack: dict[str, str] | None
    interval: str


class _Entry(TypedDict, total=False):
    cells: list[dict[str, str | int | float | None]]
    depths: list[dict[str, str | int | float | None]]
    perplexity: dict[str, list[_Text]]
    by_position: list[_Bin]
    tasks: dict[str, dict[str, dict[str, float]]]
    settings: _Settings
    trained: dict[str, str]
    origins: dict[str, dict[str, JsonValue]]
    notes: list[str]


_ENTRY, _CELL, _DEPTH = TypeAdapter(_Entry), TypeAdapter(CellScore), TypeAdapter(DepthScore)


def read_history(folder: Path) -> list[EvalResult]:
    """The evaluations that a folder's results.json holds, newest first; none where there is no such file.

    Raises ValueError for a file that holds something else.
    """
    file = folder / RESULTS
    if not file.is_file():
        return []
    if file.stat().st_size > MAX_HISTORY_BYTES:
        raise ValueError(f"more than {MAX_HISTORY_BYTES >> 20} MiB")
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError("not an object")
    earlier = said.pop(EARLIER, [])
    return [read_entry(entry) for entry in (said, *(earlier if isinstance(earlier, list) else ()))]


def keep_unreadable(folder: Path) -> Path:
    """Put a results.json that cannot be read aside; its new path. Raises Failure."""
    names = (f"unreadable-{n}-{RESULTS}" if n > 1 else f"unreadable-{RESULTS}" for n in itertools.count(1))
    aside = next(folder / name for name in names if not os.path.lexists(folder / name))
    try:
        return (folder / RESULTS).replace(aside)
    except OSError as error:
        raise Failure(f"{folder / RESULTS}: cannot be put aside: {error.strerror}") from error


def history_to_json(history: Sequence[EvalResult]) -> dict[str, Any]:
    """What results.json holds: the newest evaluation, and a list of earlier ones."""
    newest, *earlier = [result.to_json() for result in history]
    return {**newest, EARLIER: earlier}


def with_new(new: EvalResult, old: Sequence[EvalResult]) -> list[EvalResult]:
    """All evaluations, newest first. What `new` answers again is removed from the old ones, and empty ones with it."""
    kept = (_without(one, new) for one in old)
    return [new, *(one for one in kept if one.cells or one.perplexity or one.by_position or one.tasks)]


def read_entry(said: Any) -> EvalResult:
    """One evaluation from its JSON; keys that are no part of it are left out. Raises ValueError."""
    try:
        entry = _ENTRY.validate_python(said)
        return EvalResult(
            dict(entry["settings"]),
            entry.get("trained", {}),
            entry.get("origins", {}),
            [_CELL.validate_python(cell) for cell in entry["cells"]],
            [_DEPTH.validate_python(depth) for depth in entry["depths"]],
            entry["perplexity"],  # type: ignore[arg-type]
            entry["by_position"],  # type: ignore[arg-type]
            entry["tasks"],
            entry.get("notes", []),
        )
    except (ValidationError, KeyError) as error:
        raise ValueError(str(error).partition("\n")[0][:200]) from error


def _without(old: EvalResult, new: EvalResult) -> EvalResult:
    """Old answers without those that `new` gives again: to the same question, by a run of the same fingerprint."""
    scores = _same_settings(old, new, {*old.settings, *new.settings} - {HARNESS})
    drawn = _same_settings(old, new, {HARNESS})
    cells = {(_fingerprint(new, row.run), _cell_question(row)) for row in new.cells if scores}
    same = _precision(old) == _precision(new)
    texts = {
        (_fingerprint(new, run), _text_question(row)) for run, rows in new.perplexity.items() for row in rows if same
    }
    places = {(_fingerprint(new, row["run"]), _position_question(row)) for row in new.by_position if same}
    tasks = {_task_question(new, label, task) for label, found in new.tasks.items() for task in found if drawn}
    perplexity = {
        run: [row for row in rows if (_fingerprint(old, run), _text_question(row)) not in texts]
        for run, rows in old.perplexity.items()
    }
    left = {
        label: {task: row for task, row in found.items() if _task_question(old, label, task) not in tasks}
        for label, found in old.tasks.items()
    }
    return replace(
        old,
        cells=[row for row in old.cells if (_fingerprint(old, row.run), _cell_question(row)) not in cells],
        depths=[row for row in old.depths if (_fingerprint(old, row.run), _cell_question(row)) not in cells],
        perplexity={run: rows for run, rows in perplexity.items() if rows},
        by_position=[
            row for row in old.by_position if (_fingerprint(old, row["run"]), _position_question(row)) not in places
        ],
        tasks={label: found for label, found in left.items() if found},
    )


def _fingerprint(result: EvalResult, run: str) -> object:
    """The fingerprint of a run; an object that equals no other where none was recorded."""
    return result.origins.get(run, {}).get("fingerprint") or object()


def _same_settings(one: EvalResult, other: EvalResult, names: set[str]) -> bool:
    """Whether these settings and the precision are the same. A setting that one of them did not use does not count."""
    pairs = [(one.settings.get(name), other.settings.get(name)) for name in names]
    alike = all(mine == theirs or mine is None or theirs is None for mine, theirs in pairs)
    return alike and _precision(one) == _precision(other)


def _precision(result: EvalResult) -> object:
    """That of the arithmetic; None: as the weights were saved."""
    return result.settings.get("precision")


def _cell_question(row: CellScore | DepthScore) -> tuple[str, int, int | None]:
    return row.task, row.length, row.window


def _text_question(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["window"], row.get("text")


def _position_question(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["window"], row.get("context"), row.get("text")


def _task_question(result: EvalResult, label: str, task: str) -> tuple[object, ...]:
    """Of the harness: its figures are labelled `run` or `run, window 8`."""
    run, _, window = label.partition(", window ")
    return _fingerprint(result, run), window, task
