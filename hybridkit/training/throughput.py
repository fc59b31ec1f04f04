"""The values of a metrics line that depend on time."""

from collections.abc import Sequence
from typing import Any

from hybridkit.model.plan import Plan
from hybridkit.training.ceiling import Ceiling, largest_weights, matrix_ceiling
from hybridkit.training.engine import Engine
from hybridkit.training.objective import CROSS_ENTROPY, Objective

FIRST = 0.1  # seconds that the ceiling is measured before the first step
SHARE = 0.005  # of the time of training that it is measured after that


class Speed:
    """Tokens per second, and model FLOPs utilization: exact FLOPs over those that the ranks' devices could do.

    The ceiling is measured before the first step and now and then after it; the best measurement counts.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        sequence: int,
        rows: int,
        ceiling: Ceiling | None = None,
        objective: Objective = CROSS_ENTROPY,
    ) -> None:
        self._plan, self._sequence, self._ranks, self._objective = plan, sequence, engine.ranks, objective
        self.ceiling = ceiling or matrix_ceiling(
            engine.device, engine.precision, largest_weights(plan), rows * sequence
        )
        self.ceiling.measure()
        while self.ceiling.spent + self.ceiling.round <= FIRST:
            self.ceiling.measure()
        self._allowed = self.ceiling.spent  # seconds that may be spent on measuring so far

    def metrics(self, sequences: int, windows: Sequence[int | None], seconds: float) -> dict[str, Any]:
        """`seconds`, `tokens_per_second` and `mfu` of a step."""
        self._allowed += SHARE * seconds
        if self.ceiling.spent + self.ceiling.round <= self._allowed:
            self.ceiling.measure()
        flops = sequences * self._objective.flops(self._plan, self._sequence, windows)
        rate = flops / seconds / self._ranks
        self.ceiling.observe(rate, "training")
        return {
            "seconds": seconds,
            "tokens_per_second": sequences * self._sequence / seconds,
            "mfu": rate / self.ceiling.best,
        }

    def __str__(self) -> str:
        """What `mfu` is a share of."""
        found = self.ceiling
        how = "reached in training" if found.reached_by else f"the best of {found.count} matrix products"
        return (
            f"mfu is a share of {found.best / 1e9:,.1f} GFLOP/s a rank, {how};"
            f" the best product was {found.spread:.2f} times as fast as their median"
        )
