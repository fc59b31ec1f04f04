"""The engine that a recipe names."""

import os
from collections.abc import Callable

from hybridkit.model.plan import Plan
from hybridkit.recipe.schema import Train
from hybridkit.system.machine import choose_device
from hybridkit.training.engines.deepspeed.config import check
from hybridkit.training.engines.engine import Engine


def local(plan: Plan, train: Train) -> Engine:
    """One process."""
    from hybridkit.training.engines.local import LocalEngine

    return LocalEngine(plan, train)


def deepspeed(plan: Plan, train: Train) -> Engine:
    """DeepSpeed's ranks. Raises UserError where they cannot run here."""
    check(train)
    os.environ.setdefault("DS_ACCELERATOR", choose_device(train.device).type)  # read when DeepSpeed is imported
    from hybridkit.training.engines.deepspeed.engine import DeepSpeedEngine

    return DeepSpeedEngine(plan, train)


ENGINES: dict[str, Callable[[Plan, Train], Engine]] = {"local": local, "deepspeed": deepspeed}


def open_engine(plan: Plan, train: Train) -> Engine:
    """The engine that a recipe names. Raises UserError where it cannot run here."""
    return ENGINES[train.engine](plan, train)
