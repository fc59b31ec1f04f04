"""What sections of a recipe are made of: their base class, and the types that fields share."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

FIXED: dict[str, JsonValue] = {"fixed": True}  # marks fields (of sections: all of theirs) that --resume may not change

MOST = 10**12  # of steps, and of whatever else is counted without a limit of its own


class Misfit(ValueError):
    """Two fields that do not go together; `paths` lead to them."""

    def __init__(self, message: str, *paths: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.paths = paths


def read_size(text: str) -> int:
    """A size as people write it: 131072, 128k (k = 1024) or 1M (M = 1024 * 1024). Raises ValueError for other text."""
    found = re.fullmatch(r"([0-9]{1,18})([kM]?)", text)
    if not found:
        raise ValueError("should be a whole number, which k (1024) or M (1024 * 1024) may follow")
    return int(found[1]) * {"": 1, "k": 1 << 10, "M": 1 << 20}[found[2]]


Size = Annotated[int, BeforeValidator(lambda value: read_size(value) if isinstance(value, str) else value)]
Switch = Annotated[bool, Field(strict=False)]  # YAML 1.2 reads yes, no, on and off as text; pydantic as what they mean
Scalar = int | float | str | bool | None
Combination = Literal["sum", "mean_norm"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Fields that belong together: frozen, other names refused, no value taken for one of another type."""

    # Built when it is first used: a recipe builds the sections within it as its parts.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def usage(cls) -> tuple[str, ...]:
        """Its fields, as `hybridkit blocks --all` lists them: `zero=1`."""
        return tuple(
            name if field.is_required() else f"{name}={json.dumps(field.get_default(call_default_factory=True))}"
            for name, field in cls.model_fields.items()
        )
