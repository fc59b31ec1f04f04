"""Windows that change at fixed fractions of the run: `schedule(0=128, .5=512, .9=2048)`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from pydantic import field_validator

from hybridkit.block import Argument, TrainStep, Window, WindowSize


class Schedule(Window):
    """Window `w` from fraction `f` of the run on, for every argument `f=w`; the first fraction is 0."""

    stages: tuple[tuple[float, WindowSize], ...]

    @classmethod
    def read(cls, arguments: Sequence[Argument], **given: Any) -> Self:
        """From pairs of a fraction of the run, in [0, 1), and a window in tokens. Raises ValueError for others."""
        if any(not isinstance(key, int | float) for key, _ in arguments):
            raise ValueError("schedule takes fraction=window arguments: schedule(0=128, .5=512)")
        return cls(stages=tuple(arguments))  # type: ignore[arg-type]  # pydantic checks the windows

    @classmethod
    def usage(cls) -> tuple[str, ...]:
        return "0=window", "fraction=window", "..."

    @field_validator("stages")
    @classmethod
    def _ordered(cls, stages: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
        fractions = [fraction for fraction, _ in stages]
        if not fractions or fractions[0] != 0:
            raise ValueError("the first fraction should be 0: schedule(0=128, .5=512)")
        if any(a >= b for a, b in pairwise(fractions)) or fractions[-1] >= 1:
            raise ValueError("fractions should rise and stay below 1: schedule(0=128, .5=512)")
        if min(window for _, window in stages) < 1:
            raise ValueError("a window should be at least 1")
        return stages

    def arguments(self) -> list[Argument]:
        return list(self.stages)

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training:
            return self.largest
        return [window for fraction, window in self.stages if step.step >= fraction * step.total_steps][-1]

    @property
    def largest(self) -> int:
        return max(window for _, window in self.stages)

    def probabilities(self) -> Mapping[int, float]:
        ends = [fraction for fraction, _ in self.stages[1:]] + [1.0]
        shares: dict[int, float] = {}
        for (begin, window), end in zip(self.stages, ends, strict=True):
            shares[window] = shares.get(window, 0.0) + end - begin
        return shares
