"""`pruner: halving`: asynchronous successive halving on the running loss (Li et al., arXiv 1810.05934)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from hybridkit.search.pruner import Pruner


class Halving(Pruner):
    """A trial goes on while its running loss is among the best 1/factor of the trials that came as far.

    They are compared after `min_steps` * `factor`^k steps. The first `factor` - 1 trials always go on.
    """

    min_steps: int = Field(default=100, ge=1, description="The first step at which a trial may be stopped.")
    factor: int = Field(default=3, ge=2, description="1/factor of the trials go on.")

    def rungs(self, number: int, steps: int) -> list[int]:
        found = [self.min_steps]
        while found[-1] * self.factor < steps:
            found.append(found[-1] * self.factor)
        return [step for step in found if step < steps]

    def stops(self, loss: float, others: Sequence[float]) -> bool:
        losses = sorted([loss, *others])
        return len(losses) >= self.factor and loss > losses[len(losses) // self.factor - 1]
