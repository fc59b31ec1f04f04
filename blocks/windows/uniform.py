"""Windows drawn uniformly from low, low + step, ... high, for every batch.

A summary of arXiv 2509.24552 describes its draw so; the paper itself draws one of the two ends (`stoch`).
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from hybridkit.block import ALL, TrainStep, Window

MAX_WINDOWS = 1 << 12  # each is costed and listed on its own


class Uniform(Window):
    """Every window of `range(low, high + 1, step)` with the same probability; only the largest after `until`."""

    low: int = Field(ge=1)
    high: int = Field(ge=1)
    step: int = Field(1, ge=1)
    until: float = Field(1.0, ge=0, le=1)
    scope: Literal["batch", "layer"] = "batch"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high == ALL:
            raise ValueError(f"uniform needs two numbers, not {ALL}: give the length of a training sequence")
        if self.low > self.high:
            raise ValueError(f"the smaller window comes first: uniform({self.high},{self.low})")
        if len(self._windows) > MAX_WINDOWS:
            raise ValueError(f"{len(self._windows)} windows are more than {MAX_WINDOWS}: choose a larger step")
        return self

    @property
    def _windows(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training or step.step >= self.until * step.total_steps:
            return self.largest
        return self._windows[int(step.uniform(index if self.scope == "layer" else None) * len(self._windows))]

    @property
    def largest(self) -> int:
        return self._windows[-1]

    def probabilities(self) -> Mapping[int, float]:
        share = self.until / len(self._windows)
        return {**dict.fromkeys(self._windows, share), self.largest: share + 1 - self.until}
