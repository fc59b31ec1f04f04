"""`sampler: grid`: every choice once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hybridkit.search.sampler import Proposal, Sampler, SearchGoal
from hybridkit.search.trials import Trial


class Grid(Sampler):
    """All choices, the first variable changing slowest; the number of trials is that of the choices."""

    def count(self, goal: SearchGoal) -> int:
        return goal.space.size() or 0

    def proposals(self, goal: SearchGoal, trials: Sequence[Trial], first: int) -> Iterator[Proposal]:
        return (Proposal(number, params, {}) for number, params in enumerate(goal.space.grid()) if number >= first)
