"""Recipes as files: finding and reading them, `extends`, overrides, writing them out, comparing them.

What an extending file or an override says is merged into what it extends (merging.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache, reduce
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from hybridkit.language.parser import parse_pattern
from hybridkit.language.pattern_source import PatternSource
from hybridkit.language.resolve import check_names
from hybridkit.recipe.merging import merged
from hybridkit.recipe.messages import RecipeError, complaint, refuse_number_keys, unknown_field
from hybridkit.recipe.schema import Data, Leaf, ModelOptions, Recipe, Train, leaves
from hybridkit.recipe.yaml_reader import (
    Document,
    KeyPath,
    ReadError,
    TextPlace,
    missing,
    read_yaml_file,
    read_yaml_text,
    scalar,
)
from hybridkit.registry.registry import REGISTRY, Registry
from hybridkit.system.errors import nearest
from hybridkit.system.folders import explain, is_space

__all__ = ["Data", "Loaded", "ModelOptions", "Recipe", "RecipeChange", "RecipeError", "Train", "dump"]
__all__ += ["find_recipe", "read_recipe", "recipe_changes", "run_name", "shipped", "sort_words"]

KnownNames = Callable[[Path, Set[str]], Registry]  # a recipe's file and the names in it to what it may name
MAX_EXTENDS = 16
MAX_KEYS = 16  # of a dotted override


class Loaded(NamedTuple):
    """A recipe, where its pattern stands (for errors that only a block can see), and the file it was read from."""

    recipe: Recipe
    source: PatternSource | None
    path: Path
    registry: Registry = REGISTRY  # what its pattern may name; for a run's recipe with the run's own plug-ins


class RecipeChange(NamedTuple):
    """A field that differs between two recipes; `allowed`: whether a run may be resumed with the new value."""

    key: str
    old: Any
    new: Any
    allowed: bool


def read_recipe(name: str | Path, overrides: Sequence[str] = (), known: KnownNames | None = None) -> Loaded:
    """Read a recipe: a file's path or the name of a shipped one (`quickstart`, `paper/swax-512-7b`, `swax-512-7b`).

    Each override is a dotted `key=value`: `train.lr=1e-3`, `pattern=[sa]*4`. `known` says what the pattern
    in a file may name (`hybridkit.runs.run.load_recipe` adds a run's own plug-ins). Raises UserError for files, YAML,
    keys and values that are wrong, and for syntax errors in the pattern; what only a block's class can see is found
    when the pattern is compiled.
    """
    path = find_recipe(name)
    if is_space(path):
        raise RecipeError(explain(path, "a recipe"))
    document = reduce(merged, map(_override, overrides), _extended(path, ()))
    registry = known(path, set(_words(document.data))) if known else REGISTRY
    recipe = _checked(document, path, registry)
    source = document.sources.get(("pattern",))
    calls = parse_pattern(recipe.pattern, source)
    check_names(calls, registry, recipe.pattern, source)
    return Loaded(recipe, source, path, registry)


def read_mapping(content: Mapping[str, Any], overrides: Mapping[str, Any], registry: Registry = REGISTRY) -> Loaded:
    """A recipe that is given as a mapping rather than a file; else as `read_recipe`."""
    if "extends" in content:
        raise RecipeError("recipe: extends: only a recipe in a file may have `extends`")
    whole = reduce(merged, map(_override, set_values(overrides)), _given(content))
    recipe = _checked(whole, Path("recipe"), registry)
    source = whole.sources.get(("pattern",))
    check_names(parse_pattern(recipe.pattern, source), registry, recipe.pattern, source)
    return Loaded(recipe, source, Path("recipe"), registry)


def set_values(values: Mapping[str, Any]) -> list[str]:
    """Python values by dotted key, as overrides are written on a command line."""
    refuse_number_keys(values)
    return [f"{key}={value if key == 'pattern' else json.dumps(value)}" for key, value in values.items()]


def is_recipe(text: str) -> bool:
    """Whether a text names a recipe: a file that is there, or one that comes with hybridkit."""
    return text in shipped() or text.endswith((".yaml", ".yml")) or os.path.isfile(text)


def _given(content: Mapping[str, Any]) -> Document:
    """The document of a mapping, whose places are all `recipe`."""
    try:
        refuse_number_keys(content)
        data = json.loads(json.dumps(content))
    except (TypeError, ValueError, RecursionError) as error:  # RecursionError: it holds itself
        raise RecipeError(f"recipe: a mapping of text, numbers, lists and mappings is meant: {error}") from None
    places: dict[KeyPath, TextPlace] = {(): TextPlace("recipe")}

    def place(part: Any, path: KeyPath) -> None:
        for key, value in part.items() if isinstance(part, dict) else ():
            places[(*path, key)] = TextPlace("recipe")
            place(value, (*path, key))

    place(data, ())
    pattern = data.get("pattern")
    sources: dict[KeyPath, PatternSource] = {}
    if isinstance(pattern, str):
        sources["pattern",] = PatternSource("recipe", PatternSource.inline(pattern).lines)
    return Document(data, places, places, sources)


def _words(data: Any) -> Iterator[str]:
    """The words in the texts of a recipe, among them all names of blocks, engines and other kinds that it uses."""
    if isinstance(data, str):
        yield from re.findall(r"[^\W\d]\w*", data)
    for part in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _words(part)


def find_recipe(name: str | Path) -> Path:
    """The file at the path `name`, or else the shipped recipe of that name. Raises UserError."""
    path, known = Path(name), shipped()
    if os.path.isfile(path) or (os.path.exists(path) and str(name) not in known):
        return path
    if str(name) not in known:
        raise missing(path, known)
    return known[str(name)]


def run_name(recipe: str | Path) -> str:
    """What a recipe or space file is called: its name without folder, `.yaml` and `.yml`; other dots stay."""
    name = Path(recipe).name
    return re.sub(r"\.ya?ml\Z", "", name) or name


def sort_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words of a command line as names and as `key=value` changes; a word that exists as a file or folder is a name."""
    names: list[str] = []
    changes: list[str] = []
    for word in words:
        (changes if "=" in word and not os.path.lexists(word) else names).append(word)
    return names, changes


@cache
def shipped() -> Mapping[str, Path]:
    """The recipes that come with hybridkit, by path (`paper/swax-512-7b`) and by name alone (`swax-512-7b`)."""
    spec = importlib.util.find_spec("hybridkit_recipes")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    files = [(root, path) for root in roots for path in sorted(root.rglob("*.yaml"))]
    return MappingProxyType(
        {name: path for root, path in files for name in (path.stem, str(path.relative_to(root).with_suffix("")))}
    )


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` reads back equal: every field written, nothing extended."""
    return yaml.dump(
        recipe.model_dump(mode="json", by_alias=True),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=1 << 20,
    )


def recipe_changes(old: Recipe, new: Recipe, registry: Registry = REGISTRY) -> list[RecipeChange]:
    """The fields that differ, in the order of the schema."""
    pairs = [(leaf, _value_of(leaf, old), _value_of(leaf, new)) for leaf in leaves(registry)]
    return [RecipeChange(leaf.key, was, now, not leaf.fixed) for leaf, was, now in pairs if was != now]


def _value_of(leaf: Leaf, recipe: Recipe) -> Any:
    """What a recipe says; the default for a field of an engine that is not the recipe's."""
    try:
        return attrgetter(leaf.attribute)(recipe)
    except AttributeError:
        return leaf.info.get_default()


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes where our reader, or one of YAML 1.1, would read a number, null or the like."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = scalar(text) == text and text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _write_text)


def _is_pattern(keys: tuple[str, ...]) -> bool:
    return keys == ("pattern",)


def _extended(path: Path, extending: tuple[str, ...]) -> Document:
    """A file's document, merged into the one that it extends. `extending`: the files that lead to it."""
    document = read_yaml_file(path, _is_pattern)
    if "extends" not in document.data:
        return document
    place, said = document.where(("extends",)), document.data.pop("extends")
    if not isinstance(said, str) or not said:
        raise RecipeError(f"{place}: extends should be another recipe: its path from here, or a shipped one's name")
    chain = (*extending, os.path.realpath(path))
    base = path.parent / said
    if not os.path.exists(base):
        base = shipped().get(said, base)
    if os.path.exists(base) and not os.path.isfile(base) and not os.path.isdir(base):  # a pipe might never end
        raise RecipeError(f"{place}: extends {base}: not a regular file")
    if os.path.realpath(base) in chain or len(chain) > MAX_EXTENDS:
        raise RecipeError(f"{place}: extends goes round in a circle, or deeper than {MAX_EXTENDS} files")
    try:
        return merged(_extended(base, chain), document)
    except ReadError as error:
        raise error if error.place.line else RecipeError(f"{place}: extends {error}") from None


def _override(text: str) -> Document:
    """The document that an override `key.key=value` stands for."""
    origin = f"override `{text if len(text) <= 60 else text[:57] + '...'}`"
    dotted, sign, said = text.partition("=")
    keys = tuple(dotted.split("."))
    if not sign or not all(keys) or len(keys) > MAX_KEYS:
        hint = "; one recipe is read, and this is another file" if not sign and os.path.exists(text) else ""
        raise RecipeError(f"{origin}: an override is written key=value, as in train.lr=1e-3{hint}")
    if keys == ("extends",):
        raise RecipeError(f"{origin}: only a file extends another")
    data = said if _is_pattern(keys) else _value(said, origin)
    for key in reversed(keys):
        data = {key: data}
    places: dict[KeyPath, TextPlace] = {keys[:n]: TextPlace(origin) for n in range(len(keys) + 1)}
    source = PatternSource(origin, PatternSource.inline(said).lines)
    return Document(data, places, places, {keys: source} if _is_pattern(keys) else {})


def _value(text: str, origin: str) -> Any:
    try:
        return read_yaml_text(text, origin).data
    except ReadError as error:
        raise RecipeError(str(error).replace(str(error.place), origin, 1)) from None


def _checked(document: Document, path: Path, registry: Registry) -> Recipe:
    if "pattern" not in document.data:
        if slip := next((key for key in document.data if nearest(key, ["pattern"])), None):
            raise unknown_field(document, (slip,))
        raise RecipeError(f"{path}: no pattern; the one line that a recipe needs is like pattern: [swa:128, mlstm]*4")
    try:
        return Recipe.model_validate(document.data, context={"registry": registry})
    except ValidationError as error:
        raise complaint(document, error.errors()) from None
