"""What a run would take, from its recipe alone. No weight is allocated and no text is read."""

from typing import Any

from hybridkit.cost.flops import CostSettings, cost
from hybridkit.cost.memory import Training, activations, persistent_memory
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.system.machine import choose_device, choose_precision
from hybridkit.training.engine import engine_of
from hybridkit.training.micro_batches import automatic_rows


def estimate(loaded: Loaded, ranks: int, compiled: Plan | None = None) -> dict[str, Any]:
    """Sizes, steps, FLOPs and bytes of a recipe trained by so many ranks. Raises what compiling it raises.

    `compiled`: its plan, where that is known already.

    FLOPs are of the whole run, exact and expected over the windows' shares; bytes are of one rank. Precision, and rows
    where `micro_batch` is `auto`, are those that this machine's device would have.
    """
    recipe, plan = loaded.recipe, compiled or compile_recipe(loaded)
    train, sequence = recipe.train, recipe.data.sequence
    engine = engine_of(train, loaded.registry)
    device = choose_device(train.device)
    precision = choose_precision(train.precision, device.type)
    wanted = train.micro_batch
    rows = automatic_rows(plan, train, sequence, device, precision) if wanted == "auto" else wanted
    share = -(-train.batch_tokens * engine.sequence_ranks // (sequence * ranks))  # sequences of a step on a rank
    training = Training(precision, min(rows, share), ranks, recipe.data.documents == "reset")
    case = CostSettings(sequence)
    lasting, kept = persistent_memory(plan, training), activations(plan, training, case)
    memory = {"held": engine.persistent_bytes(lasting, ranks)}
    memory["activations"] = kept.peak(train.recompute) // engine.sequence_ranks
    costs = cost(plan, case)
    return {
        "recipe": str(loaded.path),
        "pattern": plan.pattern,
        "parameters": costs.parameters.total,
        "engine": train.engine,
        "zero": 0,
        **engine.manifest_entries(),
        "ranks": ranks,
        "device": device.type,
        "precision": precision,
        "micro_batch": training.micro_batch,
        "steps": train.steps,
        "tokens": train.steps * train.batch_tokens,
        "flops_per_token": float(costs.training),
        "flops": float(costs.training * train.steps * train.batch_tokens),
        "memory": {**memory, "total": sum(memory.values())},
    }
