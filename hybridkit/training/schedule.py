"""The learning rate of every step, and the kind "schedule": what `train.schedule` of a recipe names.

The rate rises linearly to `lr` and then falls to `min_lr` along a curve. One file of `training/schedules/`, or a
plug-in, holds one class with such a curve. With s the step, S all steps and W those of the warm-up,
t = (s - W) / (S - 1 - W) runs from 0 to 1 at the last step, and

    rate = min_lr + (lr - min_lr) remaining(t)

Nothing here imports torch: a mistake in a recipe is told at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hybridkit.recipe.choices import SCHEDULE, chosen
from hybridkit.recipe.schema import Section, Train
from hybridkit.registry.registry import REGISTRY, Registry


class RateSchedule(Section, ABC):
    """How the rate falls, and its own fields: `train.schedule: {name: ..., field: ...}`."""

    kind: ClassVar[str] = SCHEDULE.name

    @abstractmethod
    def remaining(self, t: float) -> float:
        """How much of lr - min_lr is left at t, from 0 after the warm-up to 1 at the last step: a share in [0, 1].

        The rate falls to `min_lr` where `remaining(1)` is 0, and never falls where it is 1.
        """


def schedule_of(train: Train, registry: Registry = REGISTRY) -> RateSchedule:
    """The schedule that a recipe names. Raises UserError where its file fails."""
    name, fields = chosen(train.schedule)
    made: RateSchedule = registry.get(SCHEDULE, name)(**fields)
    return made


def learning_rate(step: int, train: Train, schedule: RateSchedule | None = None) -> float:
    """The rate of the update that `step`, counted from 0, makes. `schedule`: that of `train`, where it is known."""
    warm = round(train.warmup * train.steps)
    if step < warm:
        return train.lr * (step + 1) / warm
    t = (step - warm) / max(1, train.steps - 1 - warm)
    return train.last_lr + (train.lr - train.last_lr) * (schedule or schedule_of(train)).remaining(t)
