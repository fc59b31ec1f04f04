"""Asynchronous successive halving on the running loss (Li et al., arXiv 1810.05934), and hyperband's brackets of it.

A rung is a training step. A trial that reaches a rung continues if its running loss is among the best 1/factor of the
trials that reached it before; the first `factor` - 1 trials always continue. With hyperband (arXiv 1603.06560), trials
take turns in the first rung at which they are compared. A decision depends on the losses alone, not on the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from hybridkit.search.schema import PrunerSettings
from hybridkit.search.trials import Trial, is_value

RUNNING_STEPS = 20  # steps up to a rung, over which the running loss is the mean


def rungs(settings: PrunerSettings, number: int, steps: int) -> list[int]:
    """The steps at which trial `number`, of `steps` steps, may be stopped."""
    every = [settings.min_steps]
    while every[-1] * settings.factor < steps:
        every.append(every[-1] * settings.factor)
    every = [step for step in every if step < steps]
    skipped = number % len(every) if settings.kind == "hyperband" and every else 0
    return every[skipped:]


def running_losses(lines: Iterable[Mapping[str, Any]], steps: Sequence[int]) -> dict[str, float]:
    """The running loss of a run by step, at each of `steps` that it has reached; none where no loss is finite."""
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    reached = [step for step in steps if step in losses]
    recent = {step: [losses.get(n) for n in range(max(1, step - RUNNING_STEPS + 1), step + 1)] for step in reached}
    finite = {step: [loss for loss in found if is_value(loss)] for step, found in recent.items()}
    return {str(step): mean(found) for step, found in finite.items() if found}


def rung_to_stop_at(
    settings: PrunerSettings, losses_by_rung: Mapping[str, float], others: Iterable[Trial]
) -> str | None:
    """The first rung at which a trial must be stopped, given the other trials; None if it continues."""
    others = list(others)
    for step, loss in losses_by_rung.items():
        losses = sorted([loss, *(found for other in others if is_value(found := other.rungs.get(step)))])
        if len(losses) >= settings.factor and loss > losses[len(losses) // settings.factor - 1]:
            return step
    return None
