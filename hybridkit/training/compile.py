"""torch.compile, a layer at a time: equal layers share a graph, and every window of a policy gets its own, once.

torch compiles a function once for every integer, at most 8 times; the limit is raised to what the policies need. A
policy of more than `MANY` windows passes its window as a tensor that the mask reads: one graph for all.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hybridkit.model.model import Model
from hybridkit.model.plan import Plan

MANY = 8
_MODES = 4  # training or evaluation, with or without document starts


def compile_layers(model: Model) -> None:
    """Compile every layer in place; its weights keep their names."""
    graphs = sum(_graphs(entry.window.probabilities()) if entry.window else 1 for entry in set(model.plan.entries))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MODES * graphs)
    for layer in model.layers:
        layer.compile(dynamic=False)


def for_graphs(plan: Plan, windows: Sequence[int | None]) -> list[int | Tensor | None]:
    """The windows as compiled layers take them."""
    return [
        torch.tensor(window) if entry.window and len(entry.window.probabilities()) > MANY else window
        for entry, window in zip(plan.entries, windows, strict=True)
    ]


def _graphs(shares: Mapping[int, float]) -> int:
    return len(shares) if len(shares) <= MANY else 1
