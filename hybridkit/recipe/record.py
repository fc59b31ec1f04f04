"""What a checkpoint records of the recipe that made its weights, and in what a recipe differs from such a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from hybridkit.recipe.schema import Data, ModelOptions, Recipe, Train

LONGEST = 2000  # characters of a value that is recorded as it is; of a longer one the hash is
SHAPED = ("model.vocab",)  # null where the tokenizer decides; the embedding's shape says it
_RUNNING = "device compile recompute validate_every checkpoint_every keep keep_every best log probes probe_share until"
RUNNING = tuple(f"train.{name}" for name in _RUNNING.split())  # how a run is run and watched: no weight depends on it


def recipe_record(recipe: Recipe) -> dict[str, JsonValue]:
    """Every field of a recipe that its weights depend on, by its dotted key; those that engines declare left out."""
    said = recipe.model_dump(mode="json", by_alias=True)
    found: dict[str, JsonValue] = {"pattern": said["pattern"], "rules": said["rules"]}
    for name, section in (("model", ModelOptions), ("data", Data), ("train", Train)):
        for inner, info in section.model_fields.items():
            key = info.alias or inner
            found[f"{name}.{key}"] = said[name][key]
    return {key: _short(value) for key, value in found.items() if key not in (*SHAPED, *RUNNING)}


def recipe_differences(record: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Key, value of the record and value of the recipe, of all that differ; the spaces of a pattern do not count."""
    for key, now in recipe_record(recipe).items():
        was = record.get(key, now)  # a record of an older version does not know what came later
        if was != now and not (key == "pattern" and _tight(was) == _tight(now)):
            yield key, was, now


def in_words(value: Any) -> str:
    """A value as a recipe writes it: `null`, `[0.9, 0.95]`, `{name: muon}`."""
    plain = to_jsonable_python(value, by_alias=True)
    if isinstance(plain, dict):
        return "{" + ", ".join(f"{key}: {in_words(one)}" for key, one in plain.items()) + "}"
    if isinstance(plain, list):
        return f"[{', '.join(map(in_words, plain))}]"
    return plain if isinstance(plain, str) else json.dumps(plain)


def _tight(pattern: Any) -> str:
    return "".join(str(pattern).split())


def _short(value: JsonValue) -> JsonValue:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= LONGEST else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
