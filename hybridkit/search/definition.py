"""A space file: read, validated, and written to a study's folder together with all files that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue, ValidationError

from hybridkit.recipe.choices import UnknownKey
from hybridkit.recipe.files import Loaded, dump
from hybridkit.recipe.messages import unknown_field
from hybridkit.recipe.rules_version import CURRENT_RULES
from hybridkit.recipe.schema import Recipe, Scalar
from hybridkit.recipe.yaml_reader import Document, KeyPath, read_yaml_file
from hybridkit.runs.run import load_recipe
from hybridkit.search.budget import Constraint, read_budget
from hybridkit.search.folder import LOSS_VERSION
from hybridkit.search.schema import SEED, CompareSettings, MatchMeasure, MatchSettings, StudyFile
from hybridkit.search.space import PATTERN, Space, read_space
from hybridkit.system.errors import UserError
from hybridkit.system.files import write_whole
from hybridkit.system.pydantic_errors import dotted, first_error, unknown_key, wrong

BASE, SPACE = "base.yaml", "space.yaml"  # in a study's folder


@dataclass(frozen=True)
class Definition:
    """The content of a space file. `base` is the recipe that it extends, with the changes in `trial:`."""

    path: Path
    document: Document
    file: StudyFile
    base: Loaded
    target: Loaded | None  # candidates get its cost, by `match`
    space: Space
    budget: tuple[Constraint, ...]

    @property
    def maximized(self) -> tuple[bool, ...]:
        """For each objective, whether it is maximized."""
        return tuple(aim == "max" for aim in self.file.objectives.values())

    @property
    def measure(self) -> MatchMeasure | None:
        """The cost that `match` names."""
        return self.file.match.measure if isinstance(self.file.match, MatchSettings) else self.file.match

    @property
    def needs_costs(self) -> bool:
        """Whether a candidate's recipe depends on its costs, so that its blocks have to be built."""
        return self.measure is not None or self.file.trial.flops is not None

    def where(self, *path: str | int) -> str:
        """File, line and column of a value, for messages."""
        return str(self.document.where(path))

    def fixed(self) -> dict[str, Any]:
        """Everything that may not change when a study is resumed; the number of trials and what is compared may."""
        said = self.file.model_dump(mode="json", exclude={"extends", "trials", "match", "trial", "compare"})
        said |= self.file.trial.model_dump(mode="json", include={"tokens", "seeds", "evaluate", "windows"})
        said |= {"flops": self.file.trial.flops} if self.file.trial.flops else {}  # older studies have no such key
        said |= {"loss": LOSS_VERSION} if "loss" in self.file.objectives else {}
        recipes = {"base": self.base, "target": self.target}
        dumped = {
            name: loaded and loaded.recipe.model_dump(mode="json", by_alias=True) for name, loaded in recipes.items()
        }
        return said | dumped | {"measure": self.measure}


def read_definition(path: Path) -> Definition:
    """Read a space file. Raises UserError, with line and column, for all mistakes that need no block to be found."""
    document = read_yaml_file(path, is_pattern)
    file = _checked(document)
    space = read_space(document)
    if file.compare:
        _check_arms(document, file.compare, space)
    base = _load(path, file.extends, list(_overrides(file)), f"{document.where(('extends',))}: ")
    match = file.match.recipe if isinstance(file.match, MatchSettings) else None
    target = _load(path, match, [], f"{document.where(('match',))}: match: ") if match else base
    return Definition(path, document, file, base, target if file.match else None, space, read_budget(document))


def _check_arms(document: Document, compare: CompareSettings, space: Space) -> None:
    """Raise UserError unless the compared variable and the reference are among those of the space."""
    place, variables = document.where(("compare",)), space.variables
    if compare.variable not in variables or compare.variable == SEED:
        known = ", ".join(name for name in variables if name != SEED)
        raise UserError(f"{place}: compare: {compare.variable} is no variable whose values are arms; known: {known}")
    if not variables[compare.variable].holds(compare.reference):
        values = ", ".join(map(str, variables[compare.variable].probes()))
        raise UserError(f"{place}: compare: reference {compare.reference} is no value of {compare.variable}: {values}")


def is_pattern(keys: tuple[str, ...]) -> bool:
    """Whether a key of a space file holds an unquoted pattern."""
    return (
        keys in (("space", PATTERN), ("pattern",))  # the second: of a recipe
        or (keys[0] == "patterns" and len(keys) == 2)
        or (keys[0] == "space" and keys[-1] == "of")
    )


def write_definition(definition: Definition, folder: Path) -> None:
    """Write the file and its recipes to a study's folder, so that `read_definition` reads the same there."""
    content = {**definition.document.data, "extends": BASE, "trial": definition.file.trial.model_dump(mode="json")}
    content["trial"] |= {"model": {}, "data": {}, "train": {}, "steps": None}  # they are in the base
    if definition.target and definition.target is not definition.base:
        write_whole(folder / "target.yaml", dump(definition.target.recipe).encode())
        content["match"] = {"measure": definition.measure, "recipe": "target.yaml"}
    write_whole(folder / BASE, dump(definition.base.recipe).encode())
    written = yaml.dump(content, Dumper=_Quoted, sort_keys=False, allow_unicode=True, width=1 << 20)
    write_whole(folder / SPACE, written.encode())


class _Quoted(yaml.SafeDumper):
    """Writes all text in quotes, so that patterns are read back as text."""


_Quoted.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _overrides(file: StudyFile) -> Iterator[str]:
    """The changes of `trial:` to the base, as overrides of a recipe."""
    trial = file.trial
    for section, changes in (("model", trial.model), ("data", trial.data), ("train", trial.train)):
        yield from _assignments(section, changes)
    if trial.steps:
        yield f"train.steps={trial.steps}"


def _assignments(key: str, value: JsonValue) -> Iterator[str]:
    """`key.inner=value` for each value in a mapping."""
    if not isinstance(value, dict):
        yield f"{key}={json.dumps(value, ensure_ascii=False)}"
        return
    for name, inner in value.items():
        yield from _assignments(f"{key}.{name}", inner)


def _load(path: Path, name: str, overrides: list[str], place: str) -> Loaded:
    """The recipe `name`, a path beside the space file or a shipped one. Raises UserError, beginning with `place`."""
    beside = path.parent / name
    try:
        loaded = load_recipe(beside if beside.is_file() else name, overrides)
    except UserError as error:
        raise UserError(f"{place}{error}") from None
    if loaded.recipe.rules not in (None, CURRENT_RULES):
        advice = f"training follows rules {CURRENT_RULES}; take `rules` out of the recipe"
        raise UserError(f"{place}{name} has rules {loaded.recipe.rules}; {advice}")
    return loaded


def _checked(document: Document) -> StudyFile:
    if "pattern" in document.data:
        place = document.keys[("pattern",)]
        raise UserError(f"{place}: this is a recipe; a space file names it, as in extends: {place.origin}")
    if "extends" not in document.data:
        raise UserError(f"{document.where(())}: a space file needs a base recipe, as in extends: quickstart")
    try:
        file = StudyFile.model_validate(document.data)
    except ValidationError as error:
        raise _explain(document, error) from None
    given = [name for name in ("steps", "tokens", "flops") if getattr(file.trial, name)]
    if len(given) > 1:
        raise UserError(f"{document.where(('trial', given[-1]))}: trial: give {' or '.join(given)}, not both")
    return file


def _explain(document: Document, error: ValidationError) -> UserError:
    first = error.errors()[0]
    path = first["loc"]
    if first["type"] == "extra_forbidden":
        said = unknown_key(dotted(path[:-1]) or "a space file", str(path[-1]), str(path[-1]), _fields(path[:-1]))
        return UserError(f"{document.keys[path]}: {said}")
    if isinstance(cause := first.get("ctx", {}).get("error"), UnknownKey):
        return unknown_field(document, (*path, cause.key), cause.known)
    path = document.known(path)
    return UserError(f"{document.where(path)}: {dotted(path)} {wrong(first)}")


def _fields(path: KeyPath) -> list[str]:
    section: Any = StudyFile
    for key in path:
        annotation = section.model_fields[key].annotation
        section = next(
            part for part in (annotation, *getattr(annotation, "__args__", ())) if hasattr(part, "model_fields")
        )
    return list(section.model_fields)


def recipe_with(base: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """The recipe with new values of dotted fields. Raises ValueError for an unknown field or an invalid value."""
    data = base.model_dump(mode="json", by_alias=True)
    for name, value in fields.items():
        *sections, field = name.split(".")
        section: Any = data
        for key in sections:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ValueError(f"no recipe has the field {name}")
        section[field] = value
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None


def chosen_recipe(definition: Definition, params: Mapping[str, Scalar]) -> Loaded:
    """The recipe of a choice, before `match` sets its width. Raises ValueError for values that do not fit."""
    fields = dict(definition.space.fill(params))
    base, tokens = definition.base, definition.file.trial.tokens
    batch = fields.get("train.batch_tokens", base.recipe.train.batch_tokens)
    if tokens and isinstance(batch, int):
        fields["train.steps"] = -(-tokens // max(1, batch))
    recipe = recipe_with(base.recipe, fields)
    return Loaded(recipe, None if PATTERN in fields else base.source, definition.path, base.registry)
