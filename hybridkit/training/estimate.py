"""What a run would take, from its recipe alone. No weight is allocated and no text is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from hybridkit.cost.flops import CostSettings, cost
from hybridkit.cost.memory import Training, activations, device_kind, persistent_memory
from hybridkit.data.recipe_data import missing_texts
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded, Recipe
from hybridkit.system.machine import choose_device, choose_precision
from hybridkit.system.notices import tell
from hybridkit.training.callback import Callback
from hybridkit.training.checks import check_training
from hybridkit.training.engine import engine_of
from hybridkit.training.micro_batches import automatic_rows


def estimate(loaded: Loaded, ranks: int, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Sizes, steps, FLOPs and bytes of a recipe trained by so many ranks. Raises what compiling it raises, and
    UserError for what training would refuse in it; `callbacks`: its probes.

    FLOPs are of the whole run, exact and expected over the windows' shares; bytes are of one rank. Precision, and rows
    where `micro_batch` is `auto`, are those that this machine's device would have.
    """
    recipe, plan, _ = check_training(loaded, callbacks)
    for said in missing_texts(recipe.data, loaded.registry):
        tell(f"{said} (an estimate needs no text)")
    found, engine = without_activations(loaded, ranks, plan), engine_of(recipe.train, loaded.registry)
    kept = activation_bytes(plan, found, recipe) // engine.sequence_ranks
    memory = {**found["memory"], "activations": kept}
    return {**found, "memory": {**memory, "total": sum(memory.values())}}


def activation_bytes(plan: Plan, found: Mapping[str, Any], recipe: Recipe) -> int:
    """Bytes of activations at the peak of the backward pass, for whole sequences; `found`: of `without_activations`."""
    kept = activations(plan, _training(found, recipe), CostSettings(recipe.data.sequence))
    return kept.peak(recipe.train.recompute)


def without_activations(loaded: Loaded, ranks: int, plan: Plan, beside: int = 0) -> dict[str, Any]:
    """The estimate but for the activations, for which every kind of layer is run once on tensors without data.

    `beside`: bytes that something else holds on the device, such as a teacher.
    """
    recipe = loaded.recipe
    train, sequence = recipe.train, recipe.data.sequence
    engine = engine_of(train, loaded.registry)
    device = choose_device(train.device)
    precision = choose_precision(train.precision, device.type)
    wanted = train.micro_batch
    rows = automatic_rows(plan, train, sequence, device, precision, beside) if wanted == "auto" else wanted
    share = -(-train.batch_tokens * engine.sequence_ranks // (sequence * ranks))  # sequences of a step on a rank
    costs = cost(plan, CostSettings(sequence))
    made = {"precision": precision, "micro_batch": min(rows, share), "ranks": ranks}
    lasting = persistent_memory(plan, _training(made, recipe))
    return {
        "recipe": str(loaded.path),
        "pattern": plan.pattern,
        "parameters": costs.parameters.total,
        "engine": train.engine,
        "zero": 0,
        **engine.manifest_entries(),
        **made,
        "device": device.type,
        "steps": train.steps,
        "tokens": train.steps * train.batch_tokens,
        "flops_per_token": float(costs.training),
        "flops": float(costs.training * train.steps * train.batch_tokens),
        "memory": {"held": engine.persistent_bytes(lasting, ranks)},
    }


def _training(found: Mapping[str, Any], recipe: Recipe) -> Training:
    resets, device = recipe.data.documents == "reset", device_kind(choose_device(recipe.train.device))
    return Training(found["precision"], found["micro_batch"], found["ranks"], resets, device)
