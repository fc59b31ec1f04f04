"""Windows drawn uniformly from low, low + step, ... high, for every batch.

A summary of arXiv 2509.24552 describes its draw so; the paper itself draws one of the two ends (`stoch`). With `all` as
the largest, those below the length of a row, and no limit.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from hybridkit.block import ALL, TrainStep, Window, WindowSize

MAX_WINDOWS = 1 << 12  # of one policy: costs are computed for each of them


class Uniform(Window):
    """Every window of `range(low, high + 1, step)` with the same probability; only the largest after `until`."""

    low: int = Field(ge=1)
    high: WindowSize
    step: int = Field(1, ge=1)
    until: float = Field(1.0, ge=0, le=1)
    scope: Literal["batch", "layer"] = "batch"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the smaller window comes first: uniform({self.high},{self.low})")
        if self.high != ALL:
            self._windows(None)
        return self

    def _windows(self, sequence: int | None) -> Sequence[int]:
        """All windows that are drawn, the largest last. Raises ValueError for too many."""
        if self.high != ALL:
            windows = range(self.low, self.high + 1, self.step)
        elif sequence is None:
            raise ValueError("a draw up to `all` needs the length of a training sequence")
        else:
            windows = range(self.low, sequence, self.step)
        if len(windows) > MAX_WINDOWS:
            raise ValueError(f"{len(windows)} windows are more than {MAX_WINDOWS}: choose a larger step")
        return windows if self.high != ALL else [*windows, ALL]

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training or step.step >= self.until * step.total_steps:
            return self.largest
        windows = self._windows(step.sequence)
        return windows[int(step.uniform(index if self.scope == "layer" else None) * len(windows))]

    @property
    def largest(self) -> int:
        return self.high if self.high == ALL else self._windows(None)[-1]

    def probabilities(self) -> Mapping[int, float]:
        return self._shares(None)

    @property
    def needs_sequence(self) -> bool:
        return self.high == ALL

    def shares(self, sequence: int) -> Mapping[int, float]:
        return self._shares(sequence)

    def _shares(self, sequence: int | None) -> Mapping[int, float]:
        windows = self._windows(sequence)
        share = self.until / len(windows)
        return {**dict.fromkeys(windows, share), self.largest: share + 1 - self.until}
