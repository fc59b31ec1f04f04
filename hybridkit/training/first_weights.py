"""`train.from`: a run begins with the weights of another run's checkpoint, which its manifests name from then on."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, Uninitialized
from hybridkit.recipe.schema import Recipe
from hybridkit.recipe.train import FromRun
from hybridkit.runs.manifest import WEIGHTS, Invalid, Manifest
from hybridkit.runs.plugin_copies import recorded
from hybridkit.runs.run import Run
from hybridkit.runs.weights import check_weights, stored_shapes
from hybridkit.system.errors import UserError
from hybridkit.training.engine import Engine
from hybridkit.training.refusals import refuse_other_function, refuse_other_tokenizer

STEP, SHA256 = "from_step", "from_sha256"  # entries of manifests: the checkpoint, and the hash of its weights


def check_origin(recipe: Recipe, plan: Plan) -> None:
    """Raises UserError where `train.from` names no checkpoint, or one whose weights do not fit the plan, or would
    compute something else here. No weights are read, but the names and shapes of the tensors.
    """
    said = recipe.train.from_
    if said is None:
        return
    try:
        origin = Run(said.run)
        theirs = origin.recipe.recipe
        origin.check_has(said.checkpoint)
    except UserError as error:
        raise UserError(f"train.from: {error}") from error
    refuse_other_function(theirs, recipe)
    if recipe.data.tokenizer == "bytes":
        refuse_other_tokenizer(origin, "bytes")
    record = Run(said.run, said.checkpoint).record()
    checkpoint = next(one for one in origin.checkpoints() if record and one.step == record.step)
    with torch.device("meta"), Uninitialized():
        model = Model(plan)
    with suppress(Invalid, OSError):  # of a damaged checkpoint training says more, or takes the one before
        check_weights(model, stored_shapes(checkpoint.folder / WEIGHTS), f"train.from: {origin.path}")


def start_from(
    said: FromRun, engine: Engine, about: Mapping[str, Any], tell: Callable[[str], object]
) -> dict[str, int | str]:
    """Give the engine the weights of the checkpoint that `said` names (`check_origin`). What the manifests say of it.

    `about`: what they say of this run. All ranks take the same checkpoint, also where another process trains that run
    meanwhile: the oldest of those that they found. Raises UserError where the weights do not fit.
    """
    origin = Run(said.run)
    refuse_other_tokenizer(origin, about["tokenizer"])
    if (code := recorded(Run(said.run, said.checkpoint))) and code != about["code"]:
        tell(f"train.from: {origin.path} was trained with other plug-ins, or other versions of them")
    try:
        found, _ = origin.chosen(said.checkpoint)
        checkpoint, manifest = origin.chosen(-engine.all_reduce_max(-found.step))
        weights = origin.weights(checkpoint.step)
    except UserError as error:
        raise UserError(f"train.from: {error}") from error
    engine.load_weights(weights, f"train.from: {origin.path}")
    tell(f"train.from: the weights of {checkpoint.folder}")
    return {STEP: checkpoint.step, SHA256: manifest.files[WEIGHTS].sha256}


def entries_of(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says of the run's first weights."""
    return {name: manifest.entries[name] for name in (STEP, SHA256) if name in manifest.entries}
