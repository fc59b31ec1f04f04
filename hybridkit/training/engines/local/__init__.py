"""The local engine: plain torch, one process, a CPU or one GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybridkit.training.engine import Engine, EngineSpec

if TYPE_CHECKING:
    from hybridkit.model.plan import Plan
    from hybridkit.recipe.schema import Train
    from hybridkit.training.optimizer import Optimizer


class Local(EngineSpec):
    """Plain torch in one process."""

    def open(self, plan: Plan, train: Train, optimizer: Optimizer) -> Engine:
        from hybridkit.training.engines.local.engine import LocalEngine

        return LocalEngine(plan, train, optimizer)
