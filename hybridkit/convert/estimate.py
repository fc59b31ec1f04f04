"""What a conversion would take, stage by stage: that of training (training/estimate.py), and the teacher beside it.

No weight is allocated, no text is read. Bytes are of one rank. The teacher's weights count but for those that a stage
holds once for both: they are the same in both, and neither this stage nor one before it trains them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridkit.convert.definition import plan_conversion
from hybridkit.convert.fit import same_entry
from hybridkit.convert.refusals import check_planned, check_section
from hybridkit.convert.stages import PlannedStage
from hybridkit.convert.teacher import describe_teacher
from hybridkit.cost.flops import TRAINING, CostSettings, cost
from hybridkit.cost.memory import PersistentMemory, weight_sizes
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.runs.run import Which
from hybridkit.system.machine import weight_type
from hybridkit.training.engine import engine_of
from hybridkit.training.estimate import activation_bytes, without_activations
from hybridkit.training.freeze import frozen


def estimate_conversion(
    source: str, loaded: Loaded, ranks: int, scratch: Path, checkpoint: Which = None
) -> dict[str, Any]:
    """The teacher, and an estimate of every stage. `scratch`: a folder for a few small files.

    `checkpoint`: the teacher's, where it is a run. Raises UserError where teacher and recipe do not fit.
    """
    check_section(loaded)
    teacher = describe_teacher(source, scratch, checkpoint)
    conversion = plan_conversion(teacher, loaded, scratch / "none")
    changed, stages = set[str](), list[dict[str, Any]]()
    for stage in conversion.stages:
        check_planned(stage, ranks)
        sizes, fixed = weight_sizes(stage.plan), _frozen(stage)
        changed |= sizes.keys() - fixed
        stages.append({"stage": stage.name, **_estimate(stage, teacher.plan, ranks, fixed, shared=fixed - changed)})
    sizes = weight_sizes(teacher.plan)
    return {"teacher": {"pattern": teacher.plan.pattern, "parameters": sum(sizes.values())}, "stages": stages}


def teacher_elements(teacher: Plan, stage: PlannedStage, shared: Collection[str]) -> int:
    """Weights of the teacher that a stage holds beside the student's. `shared`: names of weights that are the same."""
    if stage.needs_no_teacher:
        return 0
    places = range(len(teacher.entries))
    alike = [f"layers.{at}." for at in places if same_entry(teacher, stage.plan, at)]
    norms = [f"layers.{at}.{norm}." for at in places for norm in ("norm", "post_norm")]  # of entries: copied
    once = ("embedding.", "norm.", "head.", *alike, *norms)
    sizes = weight_sizes(teacher).items()
    return sum(size for name, size in sizes if not (name in shared and name.startswith(once)))


def _estimate(
    stage: PlannedStage, teacher: Plan, ranks: int, fixed: Collection[str], shared: Collection[str]
) -> dict[str, Any]:
    recipe, plan, hidden = stage.loaded.recipe, stage.plan, "hidden" in stage.stage.losses
    engine = engine_of(recipe.train, stage.loaded.registry)
    asked = stage.loaded._replace(source=None)
    width = weight_type(without_activations(asked, ranks, plan)["precision"]).itemsize
    beside = width * teacher_elements(teacher, stage, shared)
    found = without_activations(asked, ranks, plan, beside)
    sizes = weight_sizes(plan)
    trained = sum(size for name, size in sizes.items() if name not in fixed)
    reached = trained if hidden else sum(sizes.values())  # by gradients, before those of frozen weights are dropped
    lasting = PersistentMemory(width * sum(sizes.values()), width * reached, 2 * width * trained)
    kept = activation_bytes(_new_entries(stage) if hidden else plan, found, recipe)
    memory = {
        "held": engine.persistent_bytes(lasting, ranks),
        "teacher": beside,
        "activations": kept // engine.sequence_ranks,
    }
    flops = _flops(stage, teacher)
    costs = {"flops_per_token": flops, "flops": flops * found["tokens"]}
    return {**found, **costs, "memory": {**memory, "total": sum(memory.values())}}


def _flops(stage: PlannedStage, teacher: Plan) -> float:
    """A token's, expected over windows; the teacher reads at its largest. As the objective's own `flops`."""
    length = stage.loaded.recipe.data.sequence
    own, other = cost(stage.plan, CostSettings(length)), cost(teacher, CostSettings(length))
    if "hidden" in stage.stage.losses:
        trained = sum(own.layers[at].forward for at in stage.new)
        below = sum(layer.prefill for layer in other.layers[: max(stage.new) + 1])
        return float((TRAINING * trained + below) / length)
    reads = not (stage.needs_no_teacher or (stage.stage.cache and stage.stage.top_k))
    read = sum(layer.prefill for layer in other.layers) / length + 2 * teacher.dims.width * teacher.dims.vocab
    return float(own.training + (read if reads else 0))


def _new_entries(stage: PlannedStage) -> Plan:
    """The only entries that keep anything for backward under the loss `hidden`: no logits are made."""
    entries = tuple(stage.plan.entries[at] for at in stage.new)
    return replace(stage.plan, entries=entries, config=replace(stage.plan.config, vocab=1, tie=False))


def _frozen(stage: PlannedStage) -> set[str]:
    """Weights that a stage does not change."""
    train = stage.loaded.recipe.train
    fixed = tuple(frozen(stage.plan, train.freeze, train.steps - 1, train.steps))
    return {name for name in weight_sizes(stage.plan) if name.startswith(fixed)}
