"""A checkpoint of transformers becomes a run at step 0: recipe, tokenizer and weights.

Read are config.json, safetensors and tokenizer.json; no code of the folder is run. The run is put together in a hidden
folder beside its place and renamed when it is whole.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor

from hybridkit.data.tokenizer import SAVED, Tokenizer
from hybridkit.hub.described import compile_recipe, recipe_of
from hybridkit.hub.ends import note_on_begins, note_on_ends, read_ends
from hybridkit.hub.family import FAMILY, HINT, Family
from hybridkit.hub.fields import Fields
from hybridkit.hub.files import Shards, check_links, read_foreign_json
from hybridkit.hub.tokenizer import read_hub_tokenizer
from hybridkit.hub.weights import read_weights
from hybridkit.model.loading import said_model
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import dump
from hybridkit.recipe.record import recipe_record
from hybridkit.recipe.schema import Recipe
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.manifest import NAME, STATE, WEIGHTS, Manifest, sealed, stamp
from hybridkit.runs.plugin_copies import hashes, write_copies
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError, nearest
from hybridkit.system.files import FILES, whole_folder
from hybridkit.system.folders import kind
from hybridkit.system.pydantic_errors import first_error

ENGINE = "import"  # what the manifest names in place of an engine
NOT_KNOWN = "not known"  # what a checkpoint was trained on
_SEQUENCES = [2**n for n in range(13, -1, -1)]  # data.sequence of the recipe: the longest that the config allows for
_USUAL = 1024  # where it does not say


class Imported(NamedTuple):
    """What an import made."""

    run: Path
    family: str
    pattern: str
    tensors: int
    notes: list[str]  # what to know of the run that its files do not say


def import_folder(folder: Path, run: Path) -> Imported:
    """Make the run. Raises UserError where the run exists or the folder holds no checkpoint that our blocks equal."""
    if os.path.lexists(run):
        raise UserError(f"{run} exists; name a new folder with --run")
    family, recipe, plan, tokenizer = _read(folder, run)
    ends = note_on_ends(read_ends(folder, _config(folder), plan.dims.vocab), tokenizer)
    notes = [ends, note_on_begins(folder, tokenizer), _note_on_decoding(family, plan)]
    with Shards(folder) as shards:
        weights = read_weights(family, plan, shards, str(folder))
    with whole_folder(run) as part:
        write_run(Run(part), recipe, plan, tokenizer, weights)
    return Imported(run, family.name(), plan.pattern, len(weights), [note for note in notes if note])


def _note_on_decoding(family: Family, plan: Plan) -> str | None:
    """What to know where transformers goes on from its cache by another function than the one that is imported."""
    if not (fault := family.decoding_fault(plan)):
        return None
    return f"transformers' generate differs from its own logits for this checkpoint, and from the run: {fault}"


def describe_folder(folder: Path, run: Run) -> None:
    """Recipe and tokenizer that `import_folder` would give, in an existing folder; no weights are read or written.

    Raises UserError where config or tokenizer are none that our blocks equal.
    """
    _, recipe, _, tokenizer = _read(folder, run.path)
    run.recipe_file.write_text(dump(recipe), encoding="utf-8")
    tokenizer.save(run.path)


def _read(folder: Path, run: Path) -> tuple[Family, Recipe, Plan, Tokenizer]:
    """What config.json and the tokenizer's files say, for a run that is to lie in the folder `run`."""
    check_links(folder)
    origin, config = folder / "config.json", _config(folder)
    family = _family(config, origin)
    recipe, plan = _described(family, config, origin)
    tokenizer = read_hub_tokenizer(folder, plan.dims.vocab)
    named = "bytes" if tokenizer.digest == "bytes" else str((run / SAVED).resolve())
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"tokenizer": named})})
    return family, recipe, plan, tokenizer


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: {kind(folder)} without config.json: neither a run nor a checkpoint of transformers")
    config = read_foreign_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: should be an object")
    return config


def _family(config: dict[str, Any], origin: Path) -> Family:
    """The family of a config.json. Raises UserError for one that is not known, or that brings code."""
    families = {name: REGISTRY.get(FAMILY, name)() for name in REGISTRY.names(FAMILY)}
    for family in families.values():
        if family.reads(config):
            return family
    if HINT in families and config.get("format") == HINT:
        raise UserError(f"{origin.parent} is an export of hybridkit's own format; it is opened as it is, like a run")
    said = str(config.get("model_type"))[:60]
    near = nearest(said, families)
    hint = f"did you mean `{near}`?" if near else f"known are {', '.join(families)}"
    if isinstance(config.get("text_config"), dict):
        hint = "it holds a text model beside others (text_config); save that alone, with transformers, to a new folder"
    code = " and its code (auto_map) is never run;" if "auto_map" in config else ""
    raise UserError(f"{origin}: model_type: no family here reads {said!r};{code} {hint}")


def _described(family: Family, config: dict[str, Any], origin: Path) -> tuple[Recipe, Plan]:
    """Recipe and plan of a config.json."""
    described = family.describe(Fields(config, str(origin)))
    longest = config.get("max_position_embeddings")
    longest = longest if type(longest) is int and longest > 0 else _USUAL
    sequence = next(n for n in _SEQUENCES if n <= longest)
    try:
        recipe = recipe_of(described, sequence=sequence)
        plan = compile_recipe(recipe)
        recipe = recipe.model_copy(update={"pattern": plan.pattern})
    except ValidationError as error:
        raise UserError(f"{origin}: {first_error(error)}") from error
    except UserError as error:
        raise UserError(f"{origin}: its model cannot be built: {error}") from error
    return _with_policies(family, recipe, plan, config)


def _with_policies(family: Family, recipe: Recipe, plan: Plan, config: dict[str, Any]) -> tuple[Recipe, Plan]:
    """The pattern that an export of ours was trained with, where the family says the same of it as of the plan."""
    hint: Any = config.get(HINT)
    try:
        said = recipe.model_dump(mode="json", by_alias=True)
        said["pattern"] = hint["pattern"]
        said["model"] |= {name: hint[name] for name in ("heads", "ffn", "norm") if name in hint}
        other = Recipe.model_validate(said)
        changed = compile_recipe(other)
        other = other.model_copy(update={"pattern": changed.pattern})
        if family.says_alike(plan, changed):
            return other, changed
    except (UserError, TypeError, KeyError, ValueError, AttributeError):
        pass  # a hint changes nothing but policies: without it the model is the same
    return recipe, plan


def write_run(
    run: Run,
    recipe: Recipe,
    plan: Plan,
    tokenizer: Tokenizer,
    weights: dict[str, Tensor],
    data: str = NOT_KNOWN,
    code: Mapping[str, bytes] = {},
) -> None:
    """The files of a run with one checkpoint, of step 0.

    `data`: the digest of what its weights were trained on; `code`: the files of its plug-ins, by name.
    """
    run.recipe_file.write_text(dump(recipe), encoding="utf-8")
    write_copies(run, code)
    tokenizer.save(run.path)
    folder = run.checkpoint_folder / "step-0"
    folder.mkdir(parents=True)
    FILES.tensors(folder / WEIGHTS, weights)
    (folder / STATE).write_text(json.dumps({"step": 0, "position": 0}), encoding="utf-8")
    manifest = Manifest(
        step=0,
        engine=ENGINE,
        ranks=1,
        threads=1,
        versions={name: importlib.metadata.version(name) for name in ("hybridkit", "torch")},
        data=data,
        tokenizer=tokenizer.digest,
        code=hashes(code),
        model=said_model(plan, recipe),
        recipe=recipe_record(recipe),
        files={name: stamp(folder / name) for name in (WEIGHTS, STATE)},
    )
    (folder / NAME).write_bytes(sealed(manifest))
