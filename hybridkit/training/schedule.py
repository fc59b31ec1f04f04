"""The learning rate of every step: linear warm-up to `lr`, then one of three curves down to `min_lr`.

With s the step, S all steps and W those of the warm-up, t = (s - W) / (S - 1 - W) runs from 0 to 1 at the last step.
"""

import math
from collections.abc import Callable, Mapping

from hybridkit.recipe.schema import Train

WSD_DECAY = 0.2  # the share of the steps after warm-up in which `wsd` falls (arXiv 2404.06395 uses 10 to 20 %)

# How much of the way from lr to min_lr is left at t.
CURVES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "wsd": lambda t: min(1.0, (1 - t) / WSD_DECAY),
    "constant": lambda t: 1.0,
}


def learning_rate(step: int, train: Train) -> float:
    """The rate of the update that `step`, counted from 0, makes."""
    warm = round(train.warmup * train.steps)
    if step < warm:
        return train.lr * (step + 1) / warm
    t = (step - warm) / max(1, train.steps - 1 - warm)
    return train.last_lr + (train.lr - train.last_lr) * CURVES[train.schedule](t)
