"""What a recipe says to the engine, optimizer, schedule and loggers that it names: their classes declare the fields.

An engine's fields stand flat under `train`, those of others in a mapping: `optimizer: {name: ..., field: ...}`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from hybridkit.registry.kinds import Kind
from hybridkit.registry.registry import Registry
from hybridkit.system.errors import nearest

ENGINE = Kind("engine", "hybridkit.training.engines", subfolders=True)
OPTIMIZER = Kind("optimizer", "hybridkit.training.optimizers")
LOGGER = Kind("logger", "hybridkit.training.loggers")
SCHEDULE = Kind("schedule", "hybridkit.training.schedules")

NEEDS_ENGINE: dict[str, JsonValue] = {"needs_engine": True}  # marks a field of an engine that others cannot ignore


class UnknownKey(ValueError):
    """A key that nothing declares, beside those that are known there."""

    def __init__(self, key: str, known: Sequence[str]) -> None:
        super().__init__(f"has no {key!r}")
        self.key, self.known = key, known


def check_choice(kind: Kind, name: str, registry: Registry) -> str:
    """The name. Raises ValueError, which lists the known ones, where there is none such."""
    known = registry.names(kind)
    if name not in known:
        near = nearest(name, known)
        hint, article = f"; did you mean {near}?" if near else "", "an" if str(kind)[0] in "aeiou" else "a"
        raise ValueError(f"should name {article} {kind} ({', '.join(known)}, or one of a --plugin file{hint})")
    return name


def declared(kind: Kind, registry: Registry) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that the classes of a kind declare; of two with the same name the first."""
    seen = set[str]()
    for name in registry.names(kind):
        for field, info in registry.get(kind, name).model_fields.items():
            if field not in seen:
                seen.add(field)
                yield field, info


def engine_fields(data: Mapping[str, Any], engine: str, own: Collection[str], registry: Registry) -> dict[str, Any]:
    """The values that `data` has for fields of engines; `own` are the keys that belong to the recipe itself.

    All fields of the chosen engine, and of the others' what differs from the default: another engine ignores it.
    Raises ValidationError for a value that is wrong, UnknownKey for a key that no engine declares.
    """
    said = {key: value for key, value in data.items() if key not in own}
    chosen = registry.get(ENGINE, engine)
    found = dict(_values(chosen, said))
    rest = {key: value for key, value in said.items() if key not in chosen.model_fields}
    for name in registry.names(ENGINE) if rest else ():
        cls = registry.get(ENGINE, name)
        values = _values(cls, {key: value for key, value in rest.items() if key in cls.model_fields})
        found |= {key: values[key] for key in rest.keys() & values if values[key] != cls.model_fields[key].default}
        rest = {key: value for key, value in rest.items() if key not in values}
    for key in rest:
        raise UnknownKey(key, [*own, *(field for field, _ in declared(ENGINE, registry))])
    return found


def choice(kind: Kind, said: Any, registry: Registry) -> str | dict[str, Any]:
    """What a recipe names of a kind, with its fields where they are not the defaults. Raises like `engine_fields`,

    and ValueError for what names none."""
    fields = {"name": said} if isinstance(said, str) else said
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        near = registry.names(kind)[0]
        raise ValueError(f"should be a name or a mapping, as in {{name: {near}}}")
    name = check_choice(kind, fields["name"], registry)
    given = {key: value for key, value in fields.items() if key != "name"}
    cls = registry.get(kind, name)
    for key in given.keys() - cls.model_fields:
        raise UnknownKey(key, ["name", *cls.model_fields])
    changed = cls.model_validate(given).model_dump(mode="json", exclude_defaults=True)
    return {"name": name, **changed} if changed else name


def chosen(said: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the fields of what `choice` gave."""
    if isinstance(said, str):
        return said, {}
    return said["name"], {key: value for key, value in said.items() if key != "name"}


def _values(cls: type[BaseModel], said: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a class, checked."""
    made = cls.model_validate({key: value for key, value in said.items() if key in cls.model_fields})
    return {name: getattr(made, name) for name in cls.model_fields}
