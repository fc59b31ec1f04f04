"""The kind "pruner": which trials stop early. One file of `search/pruners/`, or a plug-in, holds one class.

A rung is a step at which a trial is compared with those that came as far. A decision depends on the running losses
alone, not on the time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, ClassVar

from hybridkit.recipe.choices import chosen
from hybridkit.recipe.schema import Section
from hybridkit.registry.registry import REGISTRY
from hybridkit.search.schema import PRUNER
from hybridkit.search.trials import Trial, is_value

RUNNING_STEPS = 20  # steps up to a rung, over which the running loss is the mean


class Pruner(Section, ABC):
    """Stops trials early, by its own fields: `pruner: {name: halving, factor: 2}`."""

    kind: ClassVar[str] = PRUNER.name

    @abstractmethod
    def rungs(self, number: int, steps: int) -> list[int]:
        """The steps, rising and below `steps`, at which trial `number`, of `steps` steps, may be stopped."""

    @abstractmethod
    def stops(self, loss: float, others: Sequence[float]) -> bool:
        """Whether a trial with this running loss at a rung is stopped, given those of the others that reached it."""


def choose_pruner(said: str | Mapping[str, Any]) -> Pruner:
    """The pruner that a space file names, checked before."""
    name, fields = chosen(said)
    made: Pruner = REGISTRY.get(PRUNER, name)(**fields)
    return made


def running_losses(lines: Iterable[Mapping[str, Any]], steps: Sequence[int]) -> dict[str, float]:
    """The running loss of a run by step, at each of `steps` that it has reached; none where no loss is finite."""
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    reached = [step for step in steps if step in losses]
    recent = {step: [losses.get(n) for n in range(max(1, step - RUNNING_STEPS + 1), step + 1)] for step in reached}
    finite = {step: [loss for loss in found if is_value(loss)] for step, found in recent.items()}
    return {str(step): mean(found) for step, found in finite.items() if found}


def rung_to_stop_at(pruner: Pruner, losses_by_rung: Mapping[str, float], others: Iterable[Trial]) -> str | None:
    """The latest rung of a trial, if it must be stopped there, given the other trials; None if it continues.

    Earlier rungs decide no more. Otherwise the best trial so far could be stopped by trials that were better at an
    earlier rung and are worse now, and no trial would be left.
    """
    if not losses_by_rung:
        return None
    step, loss = list(losses_by_rung.items())[-1]
    reached = [found for other in others if is_value(found := other.rungs.get(step))]
    return step if pruner.stops(loss, reached) else None
