"""What became of a trial, as its worker writes it. No torch is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from hybridkit.runs.manifest import parse_json
from hybridkit.system.errors import UserError

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """The result of a trial: the metrics of each seed (METRICS, and `eval` if it was evaluated), or why it failed."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # when it is read from a file

    seeds: list[dict[str, Any]]
    error: str | None = None


_OUTCOME = TypeAdapter(Outcome)


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the trial in a folder; None if it has not ended. Raises UserError for a damaged file."""
    file = folder / OUTCOME
    if not file.is_file():
        return None
    try:
        outcome: Outcome = _OUTCOME.validate_python(parse_json(file.read_bytes()))
    except ValueError as error:
        raise UserError(f"{file} is damaged; remove it: {str(error)[:200]!a}") from error
    return outcome
