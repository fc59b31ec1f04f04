"""Two windows in turn: `cycle(128, 2048, 100)` has 128 for 50 steps, 2048 for 50 steps, and so on."""

from collections.abc import Mapping

from pydantic import Field

from hybridkit.block import TrainStep, Window, WindowSize


class Cycle(Window):
    """`first` in the first half of every `period` steps, `second` in the other; an odd step belongs to `first`."""

    first: WindowSize
    second: WindowSize
    period: int = Field(ge=2)

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training:
            return self.largest
        return self.first if 2 * (step.step % self.period) < self.period else self.second

    @property
    def largest(self) -> int:
        return max(self.first, self.second)

    def probabilities(self) -> Mapping[int, float]:
        if self.first == self.second:
            return {self.first: 1.0}
        first = (self.period + 1) // 2 / self.period
        return {self.first: first, self.second: 1 - first}
