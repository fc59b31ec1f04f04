"""The figures of a metrics line that hold time."""

from collections.abc import Sequence
from typing import Any

from hybridkit.compile import Plan
from hybridkit.cost import TRAINING, forward_flops
from hybridkit.machine import peak_flops
from hybridkit.train.engine import Engine


class Speed:
    """Tokens per second, and model FLOPs utilization: exact FLOPs over those that the ranks' devices could do."""

    def __init__(self, plan: Plan, engine: Engine, sequence: int) -> None:
        self._plan, self._sequence = plan, sequence
        self._peak = engine.ranks * peak_flops(engine.device, engine.precision)

    def figures(self, sequences: int, windows: Sequence[int | None], seconds: float) -> dict[str, Any]:
        """`seconds`, `tokens_per_second` and `mfu` of a step."""
        flops = TRAINING * sequences * forward_flops(self._plan, self._sequence, windows)
        return {
            "seconds": seconds,
            "tokens_per_second": sequences * self._sequence / seconds,
            "mfu": flops / seconds / self._peak,
        }
