"""From a recipe to its plan, and from a run folder to its model."""

import re
from pathlib import Path
from typing import TypeVar

import torch

from hybridkit.data.named import read_named
from hybridkit.data.tokenizer import SAVED, TOKENIZER
from hybridkit.data.tokenizer_choice import run_tokenizer, tokenizer_vocab
from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.files import Loaded
from hybridkit.recipe.schema import Data, Recipe
from hybridkit.registry.registry import Registry
from hybridkit.runs.manifest import AVERAGE, WEIGHTS
from hybridkit.runs.run import RUN_RECIPE, Run, Which
from hybridkit.runs.weights import check_weights, load_weights
from hybridkit.system.choices import PrecisionChoice
from hybridkit.system.errors import UserError
from hybridkit.system.machine import DTYPES, choose_precision
from hybridkit.system.notices import warn_once

M = TypeVar("M", bound=Model)


def own_tokenizer(run: Run, data: Data, registry: Registry) -> Data:
    """`data` with the run's own copy of the tokenizer where the file that it names is gone."""
    copy, named = run.path / SAVED, data.tokenizer
    if read_named(TOKENIZER, named, registry) or Path(named).expanduser().exists() or not copy.exists():
        return data
    return data.model_copy(update={"tokenizer": str(copy)})


def plan(loaded: Loaded, vocab: int | None = None, of: Run | None = None) -> Plan:
    """What a recipe describes, compiled and checked; nothing is allocated.

    `vocab`: the rows of trained weights; None: what the recipe and its tokenizer say. `of`: the run whose copy of the
    tokenizer is read where its file no longer exists; by default the run that this recipe belongs to.
    Raises PatternError with the place in the recipe, and UserError where model and tokenizer do not fit.
    """
    recipe = loaded.recipe
    data = (
        own_tokenizer(of or Run(loaded.path.parent), recipe.data, loaded.registry)
        if of or loaded.path.name == RUN_RECIPE
        else recipe.data
    )
    return compile_pattern(
        recipe.pattern,
        ModelConfig.of(recipe, vocab or tokenizer_vocab(data.tokenizer, recipe.model.vocab, loaded.registry)),
        source=loaded.source,
        registry=loaded.registry,
    )


def said_model(plan: Plan, recipe: Recipe) -> str:
    """A model as the manifests of its checkpoints describe it: pattern, sizes and FFN."""
    made = plan.config
    sizes = f"width={made.width} heads={made.heads} vocab={made.vocab} tie={made.tie} logit_cap={made.logit_cap}"
    ffn = recipe.model.ffn and " ".join(f"{key}={value}" for key, value in recipe.model.ffn.items())
    return f"{plan.pattern} {sizes} ffn({ffn})"


def _tell_changes(run: Run, which: Which, now: str) -> None:
    """The same for a run of an older version, which records pattern and sizes alone."""
    record = Run(run.path, which).record()
    if not record or record.recipe is not None:  # of which `Run.recipe` tells more
        return
    pattern, _, sizes = record.model.partition(" width=")
    wanted, found = (set(re.split(r"[ ()]+", text)) for text in (sizes, now.partition(" width=")[2]))
    if pattern != now.partition(" width=")[0] or not wanted <= found:  # imports record some sizes alone
        warn_once(f"{run.recipe_file} says another model than the one that was trained: {now}, not {record.model}")


def load_as(kind: type[M], run: Path | str, checkpoint: Which = None, average: bool = False) -> M:
    """A model of class `kind` with the weights of a run's checkpoint (`Run.chosen`), on the CPU.

    Its `.tokenizer` and `.recipe` are set. `average`: the running mean of the weights (`train.ema`) in their place.

    Nothing is executed but the run's plug-ins, if the user trusts them. Raises UserError where the folder holds no run
    or no valid checkpoint, the weights are another model's, or tokenizer or plug-ins are not the recorded ones.
    """
    folder = Run(run)
    loaded = folder.recipe
    weights = folder.weights(checkpoint, weights_file(run, loaded.recipe, average))
    tokenizer = run_tokenizer(folder, loaded.recipe.rules, loaded.registry)
    embedding = weights.get("embedding.weight", torch.empty(0))
    with torch.device("meta"):
        model = kind(plan(loaded, vocab=len(embedding) if embedding.ndim == 2 else None))
    check_weights(model, weights, str(run))  # before memory is allocated: the recipe may not fit the weights
    _tell_changes(folder, checkpoint, said_model(model.plan, loaded.recipe))
    model.to(weights["norm.weight"].dtype).to_empty(device="cpu")
    model.share_weights()  # to_empty gave each its own memory
    _fill_buffers(model)
    load_weights(model, weights, str(run))
    model.tokenizer, model.recipe = tokenizer, loaded.recipe
    return model.requires_grad_(False).eval()


def weights_file(run: Path | str, recipe: Recipe, average: bool) -> str:
    """Of a checkpoint: the file of its weights, or of their running mean. Raises UserError where the run kept none."""
    if average and not recipe.train.ema:
        raise UserError(f"{run}: this run kept no running mean of its weights (train.ema)")
    return AVERAGE if average else WEIGHTS


@torch.no_grad()
def _fill_buffers(model: Model) -> None:
    """Give layers the buffers that no checkpoint holds (`persistent=False`), as they are when a layer is built."""
    for layer, branch in zip(model.branches(), model.plan.branches, strict=True):
        saved = layer.state_dict()
        unsaved = {name: buffer for name, buffer in layer.named_buffers() if name not in saved}
        if unsaved:
            with torch.random.fork_rng(devices=[]):
                made = dict(branch.block.build(model.plan.dims).named_buffers())
            for name, buffer in unsaved.items():
                buffer.copy_(made[name])


def placed(model: M, device: torch.device, precision: PrecisionChoice | None = None) -> M:
    """The model on a device, its weights in a precision, in which it then computes; None: as they were saved."""
    return model.to(device, None if precision is None else DTYPES[choose_precision(precision, device.type)])


def load_model(run: Path | str, checkpoint: Which = None, average: bool = False) -> Model:
    """`load_as` a plain `Model`."""
    return load_as(Model, run, checkpoint, average)
