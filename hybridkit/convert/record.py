"""What the folder of a conversion says of it, for reports. It may be a stranger's: all is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from hybridkit.convert.definition import RECORD
from hybridkit.convert.keep import Choice
from hybridkit.convert.keep_auto import CHOICE
from hybridkit.convert.mapping import MappedLayer
from hybridkit.convert.recorded import RecordedConversion, RecordedStage, read_recorded
from hybridkit.convert.stage_evaluation import stage_evaluations
from hybridkit.convert.stages import MAPPED, STAGES
from hybridkit.evaluation.history import read_entry
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import first_error


class _Measured(BaseModel):
    """What an evaluation holds beside an `EvalResult`."""

    name: str
    run: str
    state_bytes: dict[str, int]
    decode_tokens_per_second: float | None = None
    teacher_decode_tokens_per_second: float | None = None


class ConversionRecord(NamedTuple):
    """A conversion as its folder tells it, finished or not."""

    folder: Path
    teacher: str  # in words
    stages: Sequence[RecordedStage]
    layers: Sequence[MappedLayer]  # what those of `mapped` began with
    choice: Choice | None  # of `keep: auto`
    evaluations: Sequence[Mapping[str, Any]]  # of the teacher and every stage so far, where they were measured

    @property
    def mapped(self) -> Run:
        """The student before the first stage."""
        return Run(self.folder / STAGES / MAPPED)

    def runs(self) -> list[Run]:
        """The runs of the stages, of which the last ones may not have begun."""
        inner = [Run(self.folder / STAGES / stage.name) for stage in self.stages[:-1]]
        return [*inner, Run(self.folder)]


def read_conversion(folder: Path) -> ConversionRecord | None:
    """What a folder says of its conversion; None where it holds none. Raises UserError where that cannot be read."""
    if not (folder / RECORD).is_file():
        return None
    said = read_recorded(folder / RECORD, RecordedConversion)
    choice = read_recorded(folder / CHOICE, Choice) if (folder / CHOICE).is_file() else None
    found = stage_evaluations(folder)
    try:
        for one in found:
            _Measured.model_validate(one)
            read_entry(one)
    except ValidationError as error:
        raise UserError(f"{folder}: the record of its conversion cannot be read ({first_error(error)})") from error
    except ValueError as error:
        raise UserError(f"{folder}: the record of its conversion cannot be read ({error})") from error
    teacher = f"{said.teacher.run}, step {said.teacher.step:,} (sha256 {said.teacher.sha256[:12]})"
    return ConversionRecord(folder, teacher, said.stages, said.layers, choice, found)
