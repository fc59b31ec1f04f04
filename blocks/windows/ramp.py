"""A window that grows or shrinks in the course of the run: `ramp(128, 2048, .5, .9)`.

Before fraction `begin` of the run the window is `first`, from `end` on it is `last`. In between, at the share u of the
way, it is first (last / first)^u, rounded to whole tokens: even steps of the logarithm, as between 128, 256 and 512.
In place of one of them, `all` is the length of a row on the way there, and no limit at that end.
"""

from collections.abc import Mapping
from itertools import pairwise
from math import log
from typing import Self

from pydantic import Field, model_validator

from hybridkit.block import ALL, TrainStep, Window, WindowSize

MAX_WINDOWS = 1 << 17  # of which costs are computed


class Ramp(Window):
    """`first`, then evenly in the logarithm to `last`, which holds from `end` on."""

    first: WindowSize
    last: WindowSize
    begin: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"a ramp ends after it begins: {self.begin:g} is not below {self.end:g}")
        return self

    def __call__(self, step: TrainStep, index: int) -> int:
        if not step.training:
            return self.largest
        way = min(1.0, max(0.0, (step.progress - self.begin) / (self.end - self.begin)))
        if way in (0, 1):
            return self.last if way else self.first
        first, last = self._ends(step.sequence)
        return round(first * (last / first) ** way)

    @property
    def largest(self) -> int:
        return max(self.first, self.last)

    def probabilities(self) -> Mapping[int, float]:
        return self._shares(None)

    @property
    def needs_sequence(self) -> bool:
        return self.first != self.last and ALL in (self.first, self.last)

    def shares(self, sequence: int) -> Mapping[int, float]:
        return self._shares(sequence)

    def _shares(self, sequence: int | None) -> Mapping[int, float]:
        if self.first == self.last:
            return {self.first: 1.0}
        low, high = sorted(self._ends(sequence))
        top = high  # with many windows, those from a row's length on, which see the same, count as the largest
        if sequence is not None and high - low >= MAX_WINDOWS:
            top = min(high, max(low, sequence))
        if top - low >= MAX_WINDOWS:
            raise ValueError(f"{top - low + 1:,} windows, each with costs of its own, are more than {MAX_WINDOWS:,}")
        ramp, whole = self.end - self.begin, log(high / low)
        edges = [low, *(window + 0.5 for window in range(low, top)), high]  # a window is what rounds to it
        windows = [*range(low, top), high]
        shares = {one: ramp * log(b / a) / whole for one, (a, b) in zip(windows, pairwise(edges), strict=True)}
        for window, share in ((self.first, self.begin), (self.last, 1 - self.end)):
            shares[window] = shares.get(window, 0.0) + share
        return shares

    def _ends(self, sequence: int | None) -> tuple[int, int]:
        """Both windows as numbers. A row is at least as long as the other window, and one token longer."""
        ends = self.first, self.last
        if ALL in ends and sequence is None:
            raise ValueError("a ramp up to `all` needs the length of a training sequence")
        first, last = (max(sequence or 1, min(ends) + 1) if end == ALL else end for end in ends)
        return first, last
