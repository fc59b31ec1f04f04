"""From proposals to the next candidate worth training: those out of budget and those known already are passed over.

What is passed over costs no write and no weight; it is counted, and the nearest to the budget is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hybridkit.search.candidate import Candidate, CandidateFactory, said
from hybridkit.search.samplers import Proposal, SamplerMemory
from hybridkit.search.trials import Alias, Counts, Trial
from hybridkit.system.errors import UserError


class Accepted(NamedTuple):
    """A candidate to train, and what the sampler wants to remember of it."""

    candidate: Candidate
    memory: SamplerMemory


class CandidateFilter:
    """One search for a candidate, given the trials so far."""

    def __init__(self, factory: CandidateFactory, trials: Sequence[Trial]) -> None:
        self._factory = factory
        self._known = {trial.key: trial for trial in reversed(trials)}
        last = max(trials, key=lambda trial: trial.proposals, default=None)
        self.counts = Counts(last.proposals, last.rejected, last.duplicates) if last else Counts()
        self.aliases: dict[int, list[Alias]] = {}  # by trial: other choices that come to its recipe
        self._nearest = (float("inf"), "no candidate can be built")

    def find(self, proposals: Iterator[Proposal]) -> Accepted | None:
        """The first proposal that is within the budget and new, if there is one."""
        for proposal in proposals:
            self.counts = self.counts._replace(proposals=proposal.number + 1)
            if candidate := self._accepted(proposal):
                return Accepted(candidate, proposal.memory)
        return None

    def complaint(self) -> str:
        """That nothing is within the budget, and what comes nearest."""
        made = f"none of {self.counts.proposals:,} proposals is within the budget"
        return f"{self._factory.definition.where('budget')}: {made}; nearest: {self._nearest[1]}"

    def _accepted(self, proposal: Proposal) -> Candidate | None:
        try:
            candidate = self._factory.make(proposal.params)
        except UserError as error:  # values that do not go together
            if self._nearest[0] == float("inf"):
                self._nearest = (float("inf"), str(error))
            self._reject()
            return None
        check = self._factory.check_budget(candidate)
        if check.violation:
            self._nearest = min(self._nearest, (check.violation, f"{said(candidate.params)} with {check}"))
            self._reject()
            return None
        if twin := self._known.get(candidate.key):
            self._note(twin, proposal)
            return None
        return candidate

    def _reject(self) -> None:
        self.counts = self.counts._replace(rejected=self.counts.rejected + 1)

    def _note(self, twin: Trial, proposal: Proposal) -> None:
        """Count a duplicate; its trial's value also stands for this choice."""
        self.counts = self.counts._replace(duplicates=self.counts.duplicates + 1)
        others = self.aliases.setdefault(twin.number, list(twin.aliases))
        if proposal.params not in (twin.params, *(alias.params for alias in others)):
            others.append(Alias(proposal.number, proposal.params))
