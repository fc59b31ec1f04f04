"""A space file as a study is defined by it: read, checked, and written out so that the study folder needs no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue, ValidationError

from hybridkit.recipe.files import Loaded, dump
from hybridkit.recipe.schema import Recipe
from hybridkit.recipe.yaml_reader import Document, KeyPath, read_yaml_file
from hybridkit.runs.run import load_recipe
from hybridkit.search.budget import Constraint, read_budget
from hybridkit.search.schema import MatchSettings, MeasureName, StudyFile
from hybridkit.search.space import PATTERN, Space, read_space
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.pydantic_errors import wrong

BASE, SPACE = "base.yaml", "space.yaml"  # in a study's folder


@dataclass(frozen=True)
class Definition:
    """What a space file says. `base` is the recipe it extends, with the changes of `trial:` made."""

    path: Path
    document: Document
    file: StudyFile
    base: Loaded
    target: Loaded | None  # whose cost `match` brings candidates to
    space: Space
    budget: tuple[Constraint, ...]

    @property
    def maximized(self) -> tuple[bool, ...]:
        """For each objective, whether more of it is better."""
        return tuple(aim == "max" for aim in self.file.objectives.values())

    @property
    def measure(self) -> MeasureName | None:
        """The cost that `match` names."""
        return self.file.match.measure if isinstance(self.file.match, MatchSettings) else self.file.match

    def where(self, *path: str | int) -> str:
        """The place of a value in the file, for messages."""
        return str(self.document.where(path))

    def fixed(self) -> dict[str, Any]:
        """All that makes it this study: what may not change when it is resumed; more trials may be asked for."""
        said = self.file.model_dump(mode="json", exclude={"extends", "trials", "match", "trial"})
        said |= self.file.trial.model_dump(mode="json", include={"tokens", "seeds", "evaluate", "windows"})
        recipes = {"base": self.base, "target": self.target}
        dumped = {
            name: loaded and loaded.recipe.model_dump(mode="json", by_alias=True) for name, loaded in recipes.items()
        }
        return said | dumped | {"measure": self.measure}


def read_definition(path: Path) -> Definition:
    """Read a space file. Raises UserError, pointing, for whatever is wrong with it short of what blocks can see."""
    document = read_yaml_file(path, is_pattern)
    file = _checked(document)
    space = read_space(document)
    base = _load(path, file.extends, list(_overrides(file)), f"{document.where(('extends',))}: ")
    match = file.match.recipe if isinstance(file.match, MatchSettings) else None
    target = _load(path, match, [], f"{document.where(('match',))}: match: ") if match else base
    return Definition(path, document, file, base, target if file.match else None, space, read_budget(document))


def is_pattern(keys: tuple[str, ...]) -> bool:
    """Which keys of a space file hold unquoted patterns."""
    return (
        keys in (("space", PATTERN), ("pattern",))  # the latter is a recipe's
        or (keys[0] == "patterns" and len(keys) == 2)
        or (keys[0] == "space" and keys[-1] == "of")
    )


def write_definition(definition: Definition, folder: Path) -> None:
    """Write the file and its base recipe to a study's folder, where `read_definition` reads them back."""
    from hybridkit.system.files import write_whole  # it imports torch

    said = {**definition.document.data, "extends": BASE, "trial": definition.file.trial.model_dump(mode="json")}
    said["trial"] |= {"model": {}, "data": {}, "train": {}, "steps": None}  # the base has them
    if definition.target and definition.target is not definition.base:
        write_whole(folder / "target.yaml", dump(definition.target.recipe).encode())
        said["match"] = {"measure": definition.measure, "recipe": "target.yaml"}
    write_whole(folder / BASE, dump(definition.base.recipe).encode())
    written = yaml.dump(said, Dumper=_Quoted, sort_keys=False, allow_unicode=True, width=1 << 20)
    write_whole(folder / SPACE, written.encode())


class _Quoted(yaml.SafeDumper):
    """Every text in quotes, so that this package's reader reads it back."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _overrides(file: StudyFile) -> Iterator[str]:
    """The changes of `trial:` to the base, as recipes read them."""
    trial = file.trial
    for section, said in (("model", trial.model), ("data", trial.data), ("train", trial.train)):
        yield from _assignments(section, said)
    if trial.steps:
        yield f"train.steps={trial.steps}"


def _assignments(key: str, said: JsonValue) -> Iterator[str]:
    """`key.inner=value` for every value of a mapping."""
    if not isinstance(said, dict):
        yield f"{key}={json.dumps(said, ensure_ascii=False)}"
        return
    for name, inner in said.items():
        yield from _assignments(f"{key}.{name}", inner)


def _load(path: Path, said: str, overrides: list[str], place: str) -> Loaded:
    beside = path.parent / said
    try:
        return load_recipe(beside if beside.is_file() else said, overrides)
    except UserError as error:
        raise UserError(f"{place}{error}") from None


def _checked(document: Document) -> StudyFile:
    if "pattern" in document.data:
        place = document.keys[("pattern",)]
        raise UserError(f"{place}: this is a recipe; a space file names it, as in extends: {place.origin}")
    if "extends" not in document.data:
        raise UserError(f"{document.where(())}: a space file needs a base recipe, as in extends: quickstart")
    try:
        file = StudyFile.model_validate(document.data)
    except ValidationError as error:
        raise _complaint(document, error) from None
    if file.trial.steps and file.trial.tokens:
        raise UserError(f"{document.where(('trial', 'tokens'))}: trial: give steps or tokens, not both")
    return file


def _complaint(document: Document, error: ValidationError) -> UserError:
    first = error.errors()[0]
    path = first["loc"]
    if first["type"] == "extra_forbidden":
        known = _fields(path[:-1])
        close = nearest(str(path[-1]), known)
        hint = f'did you mean "{close}"?' if close else f"known here: {', '.join(known)}"
        return UserError(f"{document.keys[path]}: {_dotted(path[:-1]) or 'a space file'} has no {path[-1]}; {hint}")
    path = document.known(path)
    return UserError(f"{document.where(path)}: {_dotted(path)} {wrong(first)}")


def _fields(path: KeyPath) -> list[str]:
    section: Any = StudyFile
    for key in path:
        annotation = section.model_fields[key].annotation
        section = next(
            part for part in (annotation, *getattr(annotation, "__args__", ())) if hasattr(part, "model_fields")
        )
    return list(section.model_fields)


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def recipe_with(base: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted fields set. Raises ValueError for fields that there are not, or values they refuse."""
    data = base.model_dump(mode="json", by_alias=True)
    for name, value in fields.items():
        *around, last = name.split(".")
        section: Any = data
        for key in around:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"no recipe has the field {name}")
        section[last] = value
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{_dotted(first['loc'])} {wrong(first)}") from None
