"""`train.freeze`: parts of the stack that do not change before a step."""

from __future__ import annotations

from collections.abc import Mapping

from hybridkit.model.plan import Plan
from hybridkit.system.errors import UserError, nearest


def check_freeze(plan: Plan, freeze: Mapping[str, float]) -> None:
    """Raises UserError for a block that the stack does not have, or an entry beyond its end."""
    names = sorted({entry.block.name() for entry in plan.entries})
    for key in freeze:
        if key.isdecimal() and int(key) >= len(plan.entries):
            raise UserError(f"train.freeze: {key}: the stack has entries 0 to {len(plan.entries) - 1}")
        if not key.isdecimal() and key not in names:
            hint = f"; did you mean `{near}`?" if (near := nearest(key, names)) else ""
            raise UserError(f"train.freeze: no {key} in the stack, which has {', '.join(names)}{hint}")


def frozen(plan: Plan, freeze: Mapping[str, float], step: int, steps: int) -> frozenset[str]:
    """How the names of weights begin that do not change at a step, which counts from 0; the norms before them too."""
    now = {key for key, until in freeze.items() if step < (until * steps if until < 1 else until)}
    return frozenset(
        f"layers.{index}." for index, entry in enumerate(plan.entries) if str(index) in now or entry.block.name() in now
    )
