"""From proposals to the next candidate to train: proposals out of budget, and known ones, are skipped.

A skipped proposal builds no weights and writes nothing. It is counted, and the one nearest to the budget is kept for a
message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hybridkit.search.candidate import Candidate, CandidateFactory, describe_candidate
from hybridkit.search.sampler import Proposal, SamplerMemory
from hybridkit.search.trials import Alias, Counts, Trial
from hybridkit.system.errors import UserError


class Accepted(NamedTuple):
    """A candidate to train, and the data that the sampler wants to find beside its trial."""

    candidate: Candidate
    memory: SamplerMemory


class CandidateFilter:
    """Filters proposals, given the trials so far; used for one new trial."""

    def __init__(self, factory: CandidateFactory, trials: Sequence[Trial]) -> None:
        self._factory = factory
        self._known = {trial.key: trial for trial in reversed(trials)}
        last = max(trials, key=lambda trial: trial.proposals, default=None)
        self.counts = Counts(last.proposals, last.rejected, last.duplicates) if last else Counts()
        self.aliases: dict[int, list[Alias]] = {}  # by trial: other choices with the same recipe
        self._nearest = (float("inf"), "no candidate can be built")

    def find(self, proposals: Iterator[Proposal]) -> Accepted | None:
        """The first proposal that is new and within the budget; None where there is none."""
        for proposal in proposals:
            self.counts = self.counts._replace(proposals=proposal.number + 1)
            if candidate := self._accept(proposal):
                return Accepted(candidate, proposal.memory)
        return None

    def message(self) -> str:
        """A message that no proposal was within the budget, with the nearest one."""
        summary = f"none of {self.counts.proposals:,} proposals is within the budget"
        return f"{self._factory.definition.where('budget')}: {summary}; nearest: {self._nearest[1]}"

    def _accept(self, proposal: Proposal) -> Candidate | None:
        try:
            candidate = self._factory.make(proposal.params)
        except UserError as error:  # values that cannot be combined
            self._reject(float("inf"), str(error))
            return None
        check = self._factory.check_budget(candidate)
        if check.violation:
            self._reject(check.violation, describe_candidate(candidate.params, check))
            return None
        if twin := self._known.get(candidate.key):
            self._add_alias(twin, proposal)
            return None
        return candidate

    def _reject(self, violation: float, description: str) -> None:
        self.counts = self.counts._replace(rejected=self.counts.rejected + 1)
        if violation < self._nearest[0] or self._nearest[0] == float("inf"):
            self._nearest = (violation, description)

    def _add_alias(self, twin: Trial, proposal: Proposal) -> None:
        """Count a duplicate; the value of its trial stands for this choice, too."""
        self.counts = self.counts._replace(duplicates=self.counts.duplicates + 1)
        aliases = self.aliases.setdefault(twin.number, list(twin.aliases))
        if proposal.params not in (twin.params, *(alias.params for alias in aliases)):
            aliases.append(Alias(proposal.number, proposal.params))
