"""One window for the whole run: `fixed(128)`, or `128` for short."""

from collections.abc import Mapping

from hybridkit.block import TrainStep, Window, WindowSize


class Fixed(Window):
    """The same window at every step."""

    window: WindowSize

    def __call__(self, step: TrainStep, index: int) -> int:
        return self.window

    @property
    def largest(self) -> int:
        return self.window

    def probabilities(self) -> Mapping[int, float]:
        return {self.window: 1.0}
