"""Stochastic windows (arXiv 2509.24552, section on stochastic window sizes): short with probability p, else long.

`until=.9` anneals: from step .9 * total_steps on, only the long window.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from hybridkit.block import TrainStep, Window, WindowSize


class Stoch(Window):
    """Drawn for every batch: `short` with probability `p`, else `long`; only `long` after `until`."""

    short: WindowSize
    long: WindowSize
    p: float = Field(0.5, ge=0, le=1)
    until: float = Field(1.0, ge=0, le=1)
    scope: Literal["batch", "layer"] = "batch"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.short > self.long:
            raise ValueError(f"the short window comes first: stoch({self.long},{self.short})")
        return self

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training or step.step >= self.until * step.total_steps:
            return self.long
        return self.short if step.uniform(index if self.scope == "layer" else None) < self.p else self.long

    @property
    def largest(self) -> int:
        return self.long

    def probabilities(self) -> Mapping[int, float]:
        short = self.p * self.until
        return {self.long: 1.0} if self.short == self.long else {self.short: short, self.long: 1 - short}
