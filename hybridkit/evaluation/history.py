"""Evaluations add up: what was found before, as results.json keeps it, and how a new one joins it.

An evaluation is of runs as they were, each with its origin, under one choice of settings. A new one of the same origins
and settings joins the old: its answers replace old ones to the same questions. Else it stands before the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hybridkit.evaluation.request import CellScore, DepthScore, EvalResult
from hybridkit.system.errors import Failure

RESULTS, EARLIER = "results.json", "earlier"
MAX_HISTORY_BYTES = 1 << 28
Row = Mapping[str, Any]
T = TypeVar("T")


class _Open(TypedDict):
    """What tables read of any row; further keys are kept."""

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
    return [_read_entry(entry) for entry in (said, *(earlier if isinstance(earlier, list) else ()))]


def keep_unreadable(folder: Path) -> Path:
    """Put a results.json that cannot be read aside; its new path. Raises Failure."""
    aside = folder / f"unreadable-{RESULTS}"
    try:
        return (folder / RESULTS).replace(aside)
    except OSError as error:
        raise Failure(f"{folder / RESULTS}: cannot be put aside: {error.strerror}") from error


def history_to_json(history: Sequence[EvalResult]) -> dict[str, Any]:
    """What results.json holds: the newest evaluation, and a list of earlier ones."""
    newest, *earlier = [findings.to_json() for findings in history]
    return {**newest, EARLIER: earlier}


def with_new(new: EvalResult, old: Sequence[EvalResult]) -> list[EvalResult]:
    """All evaluations, newest first: the first of `old` that may be joined with `new` is; no question stands twice."""
    home = next((place for place, one in enumerate(old) if _join(new, one)), None)
    rest = [_without(one, new) for place, one in enumerate(old) if place != home]
    first = new if home is None else _merged(new, _without(_renamed(old[home], new), new, same_settings=True))
    return [first, *(one for one in rest if _holds(one))]


def _read_entry(said: Any) -> EvalResult:
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


def _print(findings: EvalResult, run: str) -> Any:
    """The fingerprint of a run; None where it was not recorded, which equals no other."""
    return findings.origins.get(run, {}).get("fingerprint")


def _join(new: EvalResult, old: EvalResult) -> bool:
    """Whether two evaluations may stand as one: no run differs, and no setting that scores depend on."""
    shared = [run for run in old.trained if run in new.trained]
    same = all(_print(old, run) == _print(new, run) is not None for run in shared)
    kin = bool(shared) or bool({_print(old, run) for run in old.trained} & {_print(new, run) for run in new.trained})
    return kin and same and _same_settings(new, old) and all(_print(old, run) for run in old.trained)


def _same_settings(new: EvalResult, old: EvalResult) -> bool:
    """Of settings that one of them has no use for, nothing follows."""
    used = set(new.settings) | set(old.settings)
    used -= set() if new.cells and old.cells else {"samples", "seed", "scoring", "interval"}
    pairs = [(new.settings.get(name), old.settings.get(name)) for name in used]
    return all(mine == theirs or mine is None or theirs is None for mine, theirs in pairs)


def _renamed(old: EvalResult, new: EvalResult) -> EvalResult:
    """Old answers under the new names of runs that are the same, though the folder is called otherwise by now."""
    known = {_print(new, run): run for run in new.trained}
    names: dict[str, str] = {run: known.get(_print(old, run), run) for run in old.trained}
    if any(run != name and name in names for run, name in names.items()):
        return old

    def name(run: str) -> str:
        return names.get(run, run)

    return EvalResult(
        old.settings,
        {name(run): said for run, said in old.trained.items()},
        {name(run): origin for run, origin in old.origins.items()},
        [cell._replace(run=name(cell.run)) for cell in old.cells],
        [depth._replace(run=name(depth.run)) for depth in old.depths],
        {name(run): rows for run, rows in old.perplexity.items()},
        [{**row, "run": name(row["run"])} for row in old.by_position],
        {_label(label, names): tasks for label, tasks in old.tasks.items()},
        old.notes,
    )


def _label(label: str, names: Mapping[str, str]) -> str:
    """The label of harness figures, `run` or `run, window 8`, with the run renamed."""
    run, comma, window = label.partition(", window ")
    return f"{names.get(run, run)}{comma}{window}"


def _without(old: EvalResult, new: EvalResult, *, same_settings: bool = False) -> EvalResult:
    """Old answers without those that `new` gives again, of the same origin and to the same question."""
    prints = {run: _print(old, run) for run in old.origins}
    again = {_print(new, run) for run in new.origins} - {None}
    scores = same_settings or _same_settings(new, old)

    def kept(rows: Iterable[T], fresh: Iterable[T], run: Callable[[T], str], question: Callable[[T], Any]) -> list[T]:
        asked = {(_print(new, run(row)), question(row)) for row in fresh}
        return [row for row in rows if (prints.get(run(row)), question(row)) not in asked]

    if not again & set(prints.values()):
        return old
    perplexity = {
        name: [row for row in rows if not _asked(row, name, prints, new)] for name, rows in old.perplexity.items()
    }
    return replace(
        old,
        cells=kept(old.cells, new.cells, _run, _cell) if scores else old.cells,
        depths=kept(old.depths, new.depths, _run, _cell) if scores else old.depths,
        perplexity={name: rows for name, rows in perplexity.items() if rows},
        by_position=kept(old.by_position, new.by_position, lambda row: row["run"], _position),
        tasks=_tasks_without(old, new, prints) if scores else old.tasks,
    )


def _run(row: CellScore | DepthScore) -> str:
    return row.run


def _cell(row: CellScore | DepthScore) -> tuple[str, int, int | None]:
    return row.task, row.length, row.window


def _position(row: Row) -> tuple[Any, ...]:
    return row["window"], row.get("context"), row.get("text")


def _asked(row: Row, run: str, prints: Mapping[str, Any], new: EvalResult) -> bool:
    """Whether a row of perplexity is given again."""
    return any(
        (_print(new, name), fresh["window"], fresh.get("text")) == (prints.get(run), row["window"], row.get("text"))
        for name, rows in new.perplexity.items()
        for fresh in rows
    )


def _tasks_without(
    old: EvalResult, new: EvalResult, prints: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, float]]]:
    said = {
        (_print(new, run), window, task)
        for label, tasks in new.tasks.items()
        for run, _, window in [label.partition(", window ")]
        for task in tasks
    }
    left = {
        label: {task: row for task, row in tasks.items() if (prints.get(run), window, task) not in said}
        for label, tasks in old.tasks.items()
        for run, _, window in [label.partition(", window ")]
    }
    return {label: tasks for label, tasks in left.items() if tasks}


def _merged(new: EvalResult, old: EvalResult) -> EvalResult:
    """One evaluation of both; new answers come first."""
    first, second = (new, old) if new.cells or not old.cells else (old, new)  # whose settings the scores depend on
    chosen = {name: value for name, value in first.settings.items() if value is not None}
    settings = {**first.settings, **second.settings, **chosen}
    runs = dict.fromkeys((*new.perplexity, *old.perplexity))
    rows = {run: [*new.perplexity.get(run, []), *old.perplexity.get(run, [])] for run in runs}
    tasks = {run: {**new.tasks.get(run, {}), **old.tasks.get(run, {})} for run in (*new.tasks, *old.tasks)}
    return EvalResult(
        settings,
        new.trained | old.trained,  # where both have a run, they say the same of it
        new.origins | old.origins,
        [*new.cells, *old.cells],
        [*new.depths, *old.depths],
        rows,
        [*new.by_position, *old.by_position],
        tasks,
        list(dict.fromkeys([*new.notes, *old.notes])),
    )


def _holds(findings: EvalResult) -> bool:
    """Whether anything is left of an evaluation."""
    return bool(findings.cells or findings.perplexity or findings.by_position or findings.tasks)
