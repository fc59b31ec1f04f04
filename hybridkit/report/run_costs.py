"""What the steps of a run cost, from its recipe and the windows that its metrics name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from hybridkit.block import meant_window
from hybridkit.cost.flops import TRAINING, forward_flops
from hybridkit.model.loading import plan
from hybridkit.runs.run import Run


def step_flops(run: Run) -> Callable[[Mapping[str, Any]], float]:
    """The FLOPs of a step by its metrics line: forward and backward, exact, at the windows drawn.

    Raises UserError where the recipe cannot be read.
    """
    loaded = run.recipe
    described, sequence = plan(loaded), loaded.recipe.data.sequence
    sequences = loaded.recipe.train.batch_tokens // sequence
    names = [branch.name for branch in described.branches]

    @lru_cache(1024)
    def flops(drawn: int | str | tuple[tuple[str, Any], ...] | None) -> float:
        said = dict(drawn) if isinstance(drawn, tuple) else dict.fromkeys(names, drawn)
        given = {name: meant_window(window) for name, window in said.items()}
        windows = [given.get(name) if policy else None for name, policy in zip(names, described.policies, strict=True)]
        return float(TRAINING * sequences * forward_flops(described, sequence, windows))

    def of(line: Mapping[str, Any]) -> float:
        window = line.get("window")
        return flops(tuple(sorted(window.items())) if isinstance(window, dict) else window)

    return of
