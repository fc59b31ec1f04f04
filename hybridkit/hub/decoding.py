"""Stacks whose decoding in transformers, with its cache, is another function than their logits without one.

Read in transformers 5.23: a cache for a window of W keeps the last W - 1 tokens by `[-W + 1 :]`, which for W = 1 are
all of them; Mamba-2 bounds its step sizes when it reads a text, and not in a step from its cache; some classes ask
a cache of Mamba-2 alone how many tokens it holds, which fails.
"""

from __future__ import annotations

from hybridkit.hub.calls import window
from hybridkit.model.plan import Plan


def window_fault(plan: Plan) -> str | None:
    """Why classes with a sliding cache decode another function, if they do."""
    if any(window(branch.block) == 1 for branch in plan.branches):
        return "with its cache, transformers keeps every token of a window of 1"
    return None


def step_fault(plan: Plan, usual: float = 0.0) -> str | None:
    """Why classes with Mamba-2 decode another function, if they do.

    `usual`: a least step that a class has unless its config says otherwise, and so decodes its own checkpoints without.
    """
    for name, most in (("dt_min", usual), ("dt_max", 0)):
        if any((getattr(branch.block, name, None) or 0) > most for branch in plan.branches):
            return f"with its cache, transformers does not apply the bound {name} of the step size"
    return None


def length_fault(plan: Plan) -> str | None:
    """Why classes that have attention beside Mamba-2 cannot decode, if they cannot."""
    if not any(branch.block.name() == "sa" for branch in plan.branches):
        return "transformers' cache counts tokens in layers of attention, and there is none"
    return None
