"""Asynchronous successive halving on the running loss (Li et al., arXiv 1810.05934), and hyperband's brackets of it.

A rung is a step. A trial that reaches one goes on if its running loss is among the best 1/factor of those that came
so far; the first `factor` - 1 trials at a rung always go on. Under hyperband (arXiv 1603.06560) trials take turns in
the rung at which they are first judged. What is decided depends on losses alone, not on when somebody looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from hybridkit.search.schema import PrunerSettings
from hybridkit.search.trials import Trial, is_value

RECENT = 20  # steps up to a rung whose mean loss is the running loss


def rungs(settings: PrunerSettings, number: int, steps: int) -> list[int]:
    """The steps at which trial `number` of `steps` is judged."""
    every = [settings.min_steps]
    while every[-1] * settings.factor < steps:
        every.append(every[-1] * settings.factor)
    every = [step for step in every if step < steps]
    skipped = number % len(every) if settings.kind == "hyperband" and every else 0
    return every[skipped:]


def running_losses(lines: Iterable[Mapping[str, Any]], steps: Sequence[int]) -> dict[str, float]:
    """The running loss at those of the steps that a run has reached, out of its metrics; none where nothing counted."""
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    reached = [step for step in steps if step in losses]
    recent = {step: [losses.get(n) for n in range(max(1, step - RECENT + 1), step + 1)] for step in reached}
    counted = {step: [loss for loss in found if is_value(loss)] for step, found in recent.items()}
    return {str(step): mean(found) for step, found in counted.items() if found}


def rung_to_stop_at(settings: PrunerSettings, mine: Mapping[str, float], others: Iterable[Trial]) -> str | None:
    """The first rung at which a trial is to be stopped, given the trials that were judged there before; else None."""
    others = list(others)
    for step, loss in mine.items():
        losses = sorted([loss, *(found for other in others if is_value(found := other.rungs.get(step)))])
        if len(losses) >= settings.factor and loss > losses[len(losses) // settings.factor - 1]:
            return step
    return None
