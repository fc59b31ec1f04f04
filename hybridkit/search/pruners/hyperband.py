"""`pruner: hyperband`: halving in brackets (Li et al., arXiv 1603.06560)."""

from __future__ import annotations

from hybridkit.search.pruners.halving import Halving


class Hyperband(Halving):
    """As `halving`; trials take turns in the first step at which they are compared."""

    def rungs(self, number: int, steps: int) -> list[int]:
        every = super().rungs(number, steps)
        return every[number % len(every) :] if every else []
