"""Costs as plain data: the entries of `hybridkit flops --json` (docs/flops.md says what each figure means)."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from hybridkit.block import Block, window_of
from hybridkit.cost.flops import Cost, CostSettings, LayerCost, cost, layer_cost, total_state_bytes
from hybridkit.cost.memory import ZERO_STAGES, Training, activations, persistent_memory
from hybridkit.model.loading import plan
from hybridkit.model.plan import Plan, entry_branches
from hybridkit.recipe.files import Loaded
from hybridkit.runs.manifest import WEIGHTS
from hybridkit.runs.plugin_copies import code_of, hashes
from hybridkit.runs.run import RUN_RECIPE, Run
from hybridkit.runs.weights import stored_type
from hybridkit.system.choices import Precision
from hybridkit.system.errors import UserError
from hybridkit.system.machine import DTYPES, choose_device, choose_precision, weight_type

FLOPS_SCHEMA = 1
CONTEXTS = tuple(1024 << n for n in range(11))  # 1k ... 1M tokens


class CostRequest(NamedTuple):
    """A recipe, by the name it was asked for, and the circumstances under which it is costed."""

    name: str
    loaded: Loaded
    plan: Plan
    training: Training
    settings: CostSettings


def cost_requests(
    name: str,
    loaded: Loaded,
    contexts: Sequence[int] = (),
    *,
    precision: Precision | None = None,
    ranks: int = 1,
    **settings: Any,
) -> list[CostRequest]:
    """One request for each context, data.sequence by default; `settings` are further fields of `CostSettings`.

    `precision` is that of weights and states, by default the type that a run of the recipe decodes in, or the run
    whose recipe it is.
    Raises UserError for a pattern that does not fit its sizes, and for a window where the recipe has none.
    """
    described, train = plan(loaded), loaded.recipe.train
    if settings.get("window") and not described.has_windows:
        raise UserError(f"--window: {name} has no block with a window; leave it out")
    own = choose_precision(train.precision, choose_device("auto").type)
    kind = DTYPES[precision] if precision else _stored(loaded) or weight_type(own)
    micro_batch = 1 if train.micro_batch == "auto" else train.micro_batch
    training = Training(own, micro_batch, ranks, loaded.recipe.data.documents == "reset")
    return [
        CostRequest(name, loaded, described, training, CostSettings(context, dtype=kind, **settings))
        for context in contexts or (loaded.recipe.data.sequence,)
    ]


def _stored(loaded: Loaded) -> torch.dtype | None:
    """The type of a run's own weights, which it decodes in: that of an import or an export may be any."""
    if loaded.path.name != RUN_RECIPE:
        return None
    newest = next(Run(loaded.path.parent).checkpoints(), None)
    return stored_type(newest.folder / WEIGHTS) if newest else None


def cost_entry(request: CostRequest) -> dict[str, Any]:
    """An entry of the schema. Whole numbers are exact; means over positions and windows are the nearest float."""
    settings = request.settings
    found = cost(request.plan, settings)
    return {
        "recipe": request.name,
        "pattern": request.plan.pattern,
        "code": hashes(code_of(request.plan.entries)),
        "count": settings.count,
        "context": settings.context,
        "window": settings.window,
        "batch": settings.batch,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "params": {"total": found.parameters.total, "active": found.active, **found.parameters._asdict()},
        "flops_per_token": {
            name: as_number(getattr(found, name)) for name in ("forward", "training", "recompute", "decode")
        },
        "prefill_flops": found.prefill,
        "decode_bytes_per_token": as_number(found.decode_bytes),
        "state_bytes": {str(n): size for n, size in state_curve(request.plan, settings).items()},
        "memory": _memory(request),
        "layers": [_layer(found, index, layer) for index, layer in enumerate(found.layers)],
    }


def with_activations(entry: dict[str, Any], request: CostRequest) -> dict[str, Any]:
    """The entry of a request, with the bytes of activations in its `memory`."""
    found = activations(request.plan, request.training, request.settings)
    return {**entry, "memory": {**entry["memory"], "activations": {"kept": found.kept, "recomputed": found.recomputed}}}


def state_curve(plan: Plan, settings: CostSettings) -> dict[int, int]:
    """State bytes after 1k ... 1M tokens, and after `settings.context`."""
    return {n: total_state_bytes(plan, replace(settings, context=n)) for n in sorted({*CONTEXTS, settings.context})}


def as_number(value: Fraction) -> int | float:
    """A fraction as JSON has it."""
    return int(value) if value.denominator == 1 else float(value)


def _memory(request: CostRequest) -> dict[str, Any]:
    training = request.training
    states = persistent_memory(request.plan, training)
    return {
        "precision": training.precision,
        "micro_batch": training.micro_batch,
        "ranks": training.ranks,
        **asdict(states),
        "zero": {str(stage): states.on_rank(stage, training.ranks) for stage in ZERO_STAGES},
    }


def _layer(found: Cost, index: int, layer: LayerCost) -> dict[str, Any]:
    """A layer of the schema: an entry. One with several branches holds the same figures for each, without norms."""
    branches, sizes = entry_branches(index, found.plan.entries[index]), found.plan.sizes
    if len(branches) == 1:
        return _figures(found, index, branches[0].block, layer)
    return {
        "index": index,
        "block": " | ".join(branch.block.name() for branch in branches),
        "entry": str(found.plan.entries[index]),
        "window": None,
        **_sums(found, layer),
        "branches": [
            _figures(found, name, block, layer_cost(block, sizes, found.settings)) for name, _, block in branches
        ],
    }


def _figures(found: Cost, index: int | str, block: Block, layer: LayerCost) -> dict[str, Any]:
    window = window_of(block)
    return {
        "index": index,
        "block": block.name(),
        "entry": str(block),
        "window": None if window is None else str(window),
        **_sums(found, layer),
    }


def _sums(found: Cost, layer: LayerCost) -> dict[str, Any]:
    return {
        "params": layer.parameters,
        "forward_flops_per_token": as_number(layer.forward / found.settings.context),
        "state_bytes": layer.state,
    }
