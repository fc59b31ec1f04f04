"""The files in which a conversion keeps what it is: perhaps a stranger's, so that all is checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator

from hybridkit.convert.mapping import MappedLayer
from hybridkit.model.plan import Plan
from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import first_error
from hybridkit.system.strict_json import parse_json

MOST = 1 << 26  # bytes of a file

T = TypeVar("T")


class RecordedTeacher(BaseModel):
    """The teacher of a conversion; older records have no fingerprint."""

    run: str
    step: int
    sha256: str
    fingerprint: str | None = None


class RecordedStage(BaseModel):
    """What a conversion's record says of a stage; a conversion is resumed with the same alone."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(pattern=r"^[0-9]+-[a-z0-9-]+$")]  # of its folder
    loss: dict[str, float]
    train: str
    top_k: int | None = None
    window: str | None = None


class RecordedConversion(BaseModel):
    """What conversion.json holds; older records have no `code` and no `keep`."""

    teacher: RecordedTeacher
    stages: Annotated[list[RecordedStage], Field(min_length=1)]
    layers: list[MappedLayer]
    keep: JsonValue = None
    pattern: str | None = None
    code: dict[str, str] | None = None

    @field_validator("stages")
    @classmethod
    def _one_folder_each(cls, stages: list[RecordedStage]) -> list[RecordedStage]:
        if len({stage.name for stage in stages}) < len(stages):
            raise ValueError("two stages have one name")
        return stages


def check_layers(folder: Path, layers: Sequence[MappedLayer], plan: Plan) -> None:
    """Raises UserError where a record names branches that the student does not have."""
    known = {branch.name: int(branch.name.partition(".")[0]) for branch in plan.branches}
    if any(known.get(layer.branch) != layer.entry for layer in layers):
        raise UserError(f"{folder}: its record names layers that {plan.pattern} does not have")


def read_recorded(file: Path, kind: type[T]) -> T:
    """The content of a JSON file as a `kind`. Raises UserError, naming its folder, where it holds something else."""
    try:
        if file.stat().st_size > MOST:
            raise ValueError(f"{file.name}: more than {MOST >> 20} MiB")
        return TypeAdapter(kind).validate_python(parse_json(file.read_bytes()))
    except ValidationError as error:
        said: Any = first_error(error)
    except (ValueError, OSError) as error:
        said = error
    raise UserError(f"{file.parent}: the record of its conversion cannot be read ({file.name}: {said})")
