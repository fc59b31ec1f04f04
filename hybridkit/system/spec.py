"""What a pattern or a recipe names: a name and arguments, frozen and hashable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

Value = int | float | str | bool | None
ALL = 1 << 62  # the window `all`: no limit. Only blocks with `sees_all` have it; costs count it as the context
MAX_WHOLE = 1 << 40  # of any whole number in a pattern; larger ones overflow in torch
Argument = tuple[str | float | None, Value]  # (key, value); the key is None where the value stands by position


class Spec(BaseModel):
    """A name with arguments: frozen, hashable, unknown fields refused, printed as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def name(cls) -> str:
        """The name of the file that the class stands in."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def read(cls, arguments: Sequence[Argument], **given: Any) -> Self:
        """Build from a call's arguments: those without a key fill the fields in order.

        Raises ValueError (pydantic's included) for too many, repeated, unknown or ill-typed arguments.
        """
        order = [field for field in cls.positional() if field not in given]
        values: dict[str, Any] = dict(given)
        for place, (key, value) in enumerate(arguments):
            if key is None and any(other is not None for other, _ in arguments[:place]):
                raise ValueError(f"{write_value(value)} stands after an argument with a name: it should be named, too")
            if key is None and place >= len(order):
                raise ValueError(f"{cls.name()} takes at most {len(order)} arguments: {', '.join(order)}")
            field = order[place] if key is None else str(key)
            if field in values:
                raise ValueError(f"{field} is given twice")
            values[field] = value
        return cls(**values)

    @classmethod
    def positional(cls) -> tuple[str, ...]:
        """The fields that arguments without a key fill, in order."""
        return tuple(cls.model_fields)

    @classmethod
    def usage(cls) -> tuple[str, ...]:
        """How a call's arguments are written: `p=.5` for one with a default, `short` for one that must be given."""
        return tuple(
            name if field.is_required() else f"{name}={write_value(field.default)}"
            for name, field in ((name, cls.model_fields[name]) for name in cls.positional())
            if not (name == "window" and getattr(cls, "has_window", False))  # stands after the colon
        )

    def arguments(self) -> list[Argument]:
        """The arguments that say this object again: required fields by position, others by key unless default."""
        return [
            (None if field.is_required() else name, getattr(self, name))
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.default
        ]

    def __str__(self) -> str:
        said = ",".join(
            (f"{write_value(key)}=" if key is not None else "") + write_value(value) for key, value in self.arguments()
        )
        return f"{self.name()}({said})" if said else self.name()


def write_value(value: Value) -> str:
    """A number or word as a pattern writes it: .5, 1e-05, null, true, layer, "two words"."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return (
            value
            if value.isascii() and value.isidentifier() and value not in ("null", "true", "false")
            else json.dumps(value)
        )
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_WHOLE:
        return str(int(value))
    text = repr(value)
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
