"""What is wrong with a recipe, in the words of its author: the place, the mistake, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from hybridkit.recipe.choices import UnknownKey
from hybridkit.recipe.schema import Misfit, Recipe
from hybridkit.recipe.yaml_reader import Document, KeyPath
from hybridkit.system.errors import UserError
from hybridkit.system.pydantic_errors import dotted, unknown_key, wrong


class RecipeError(UserError):
    """A mistake in a recipe: where, what, and what would be right."""


def complaint(document: Document, errors: Sequence[ErrorDetails]) -> RecipeError:
    """The first of pydantic's errors in the user's words; all of the alternatives where a field has several types."""
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])  # a key that is misspelt
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Misfit):
        written = [path for path in cause.paths if path in document.values]
        return RecipeError(f"{document.where(written[0] if written else ())}: {cause}")
    if isinstance(cause, UserError):  # of a plug-in that cannot be imported
        raise cause
    if isinstance(cause, UnknownKey):
        return unknown_field(document, (*first["loc"], cause.key), cause.known)
    if first["type"] == "extra_forbidden":
        return unknown_field(document, first["loc"])
    path = document.known(first["loc"])
    said = list(dict.fromkeys(wrong(error) for error in errors if document.known(error["loc"]) == path))
    alternatives = " or ".join([said[0], *(message.removeprefix("should be ") for message in said[1:])])
    value = reduce(getitem, path, document.data)
    shown = "" if isinstance(value, dict | list) else f", not {shown_value(value)}"
    return RecipeError(f"{document.where(path)}: {dotted(path)} {alternatives}{shown}")


def shown_value(value: Any) -> str:
    """A value as a message shows it, in one line of bounded length."""
    said = json.dumps(value, ensure_ascii=False)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in said)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_field(document: Document, path: KeyPath, known: Sequence[str] = ()) -> RecipeError:
    """A key that no recipe has, with the nearest one that it has there, or all of them."""
    *around, name = path
    if not known:
        section: Any = Recipe
        for key in (key for key in around if isinstance(key, str)):  # the others are places in lists
            section = _section(section.model_fields[_field_of(section, key)].annotation)
        known = _names(section)
    said = unknown_key(dotted(around) or "a recipe", shown_value(name), str(name), known)
    return RecipeError(f"{document.keys.get(path) or document.where(path)}: {said}")


def _field_of(section: type[BaseModel], key: str) -> str:
    """The name of the field that a recipe writes as `key`."""
    return next((name for name, field in section.model_fields.items() if field.alias == key), key)


def _section(annotation: Any) -> Any:
    """The section that a field holds, maybe several times, or not at all: of `list[Stage]`, `Convert | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _names(section: type[BaseModel]) -> list[str]:
    names = [field.alias or name for name, field in section.model_fields.items()]
    written = {"rules"}  # by `train`, not by people
    return [name for name in names if name not in written] + ["extends"] if section is Recipe else names


def refuse_number_keys(part: Any, path: str = "recipe") -> None:
    """Raises RecipeError for a key that is a float: Python reads 3.10 as 3.1, which names another entry."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        if isinstance(key, float):
            raise RecipeError(f"{path}: the key {key:g} should be text, in quotes: 3.10 is the number 3.1")
        refuse_number_keys(value, f"{path}.{key}")
