"""`train.freeze`: parts of the stack that do not change before a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hybridkit.cost.memory import weight_sizes
from hybridkit.model.plan import Plan
from hybridkit.system.errors import UserError, nearest

ENDS = ("embedding", "norm", "head")  # of a model, beside its stack


def check_freeze(plan: Plan, freeze: Mapping[str, float], steps: int) -> None:
    """Raises UserError for a block that the stack does not have, an entry beyond its end, or where `steps` steps train
    nothing at all."""
    names = sorted({branch.block.name() for branch in plan.branches})
    known = {key for keys, _ in _parts(plan) for key in keys}
    for key in freeze:
        if key not in known and key.replace(".", "").isdecimal():
            raise UserError(f"train.freeze: {key}: the stack has entries 0 to {len(plan.entries) - 1}")
        if key not in known:
            hint = f"; did you mean `{near}`?" if (near := nearest(key, [*names, *ENDS])) else ""
            said = ", ".join([*names, *(key for key in ENDS if key in known)])
            raise UserError(f"train.freeze: no {key} in the model, which has {said}{hint}")
    fixed = tuple(frozen(plan, freeze, steps - 1, steps))
    if fixed and all(name.startswith(fixed) for name in weight_sizes(plan)):
        raise UserError(f"train.freeze: every weight is frozen in all {steps:,} steps, so that nothing is trained")


def frozen(plan: Plan, freeze: Mapping[str, float], step: int, steps: int) -> frozenset[str]:
    """How the names of weights begin that do not change at a step, which counts from 0; the norms before them too."""
    now = {key for key, until in freeze.items() if step < (until * steps if until < 1 else until)}
    return frozenset(prefix for keys, prefix in _parts(plan) if keys & now)


def _parts(plan: Plan) -> Iterator[tuple[set[str], str]]:
    """What may be frozen: its names, and how its weights' names begin. An entry of one block is its only branch."""
    yield {"embedding"}, "embedding."
    yield {"norm"}, "norm."
    if not plan.config.tie:  # a tied head is the embedding
        yield {"head"}, "head."
    for index in range(len(plan.entries)):
        yield {str(index)}, f"layers.{index}."
    for branch in plan.branches:
        yield {branch.name, branch.block.name()}, f"layers.{branch.name}."
