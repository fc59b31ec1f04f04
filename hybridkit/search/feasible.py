"""Whether any candidate is within a budget, tested before a study is created; if not, which limit none satisfies.

Costs are nearly monotonic in most variables. So coordinate descent is used: one variable at a time is set to the value
that brings a candidate nearest to a limit. This finds the smallest cost, or comes close to it, where thousands of
random candidates would not. All candidates of a small space are tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.search.budget import BudgetCheck, Constraint
from hybridkit.search.candidate import CandidateFactory, describe_candidate
from hybridkit.search.sampler import Proposal
from hybridkit.search.space import Params
from hybridkit.search.variables import Categorical, Variable
from hybridkit.system.errors import UserError

SEARCH_SECONDS = 2.5  # of the processor, for all candidates: a busy machine refuses no other budgets than a quiet one
NEAR, NEAR_FACTOR = 0.05, 4  # if the smallest violation is below NEAR, the time limit is NEAR_FACTOR times as long
SMALL_SPACE = 2000  # choices up to which all are tried


class Evaluated(NamedTuple):
    """A candidate, and its violation of each constraint of the budget."""

    params: Params
    check: BudgetCheck
    violations: tuple[float, ...]


class _Finished(Exception):
    """A candidate is within the budget, or the time is up."""


def require_feasible(
    factory: CandidateFactory, proposals: Callable[[], Iterator[Proposal]], seconds: float = SEARCH_SECONDS
) -> None:
    """Raise UserError, with the constraint and the nearest candidate, where no candidate is within the budget."""
    search = _BudgetSearch(factory, seconds)
    with suppress(_Finished):
        search.run(proposals)
    if search.evaluated and not search.found:
        raise UserError(search.message())


class _BudgetSearch:
    def __init__(self, factory: CandidateFactory, seconds: float) -> None:
        self._factory, self._begin, self._seconds = factory, time.process_time(), seconds
        self._smallest = float("inf")  # violation so far
        self._budget = factory.definition.budget
        self._known: dict[tuple[Scalar, ...], Evaluated | None] = {}
        self.found = False

    @property
    def evaluated(self) -> list[Evaluated]:
        """All candidates tried so far that can be built."""
        return [candidate for candidate in self._known.values() if candidate]

    def run(self, proposals: Callable[[], Iterator[Proposal]]) -> None:
        """Try candidates. Raises _Finished where one is within the budget, or the time is up."""
        space = self._factory.definition.space
        for params in space.probes():
            self._try(params)
        for key in (_total, *map(_violation_of, range(len(self._budget)))):
            self._descend(key)
        if (space.size() or SMALL_SPACE + 1) <= SMALL_SPACE:
            for params in space.grid():
                self._try(params)
            return
        for proposal in proposals():
            self._try(proposal.params)

    def message(self) -> str:
        """Which constraint no candidate satisfies, if there is one, and the nearest candidate."""
        candidates = self.evaluated
        where = self._factory.definition.where("budget")
        unmet = [place for place in range(len(self._budget)) if all(one.violations[place] for one in candidates)]
        begin = f"{where}: budget: none of {len(candidates):,} candidates is within it"
        if not unmet:
            near = min(candidates, key=_total)
            return f"{begin}: each limit is met by some, all together by none; nearest: {_shown(near)}"
        near = min(candidates, key=_violation_of(unmet[0]))
        first, *others = [f"`{self._budget[place].text}`" for place in unmet]
        nor = f", nor {', '.join(others)}" if others else ""
        return f"{begin}: nothing meets {first}{nor}; nearest: {_shown(near)}"

    def _descend(self, key: Callable[[Evaluated], tuple[float, ...]]) -> None:
        """Coordinate descent on `key` from the best candidate so far, until no variable improves it."""
        if not self.evaluated:
            return
        best, before = min(self.evaluated, key=key), None
        while before is None or key(best) < key(before):
            before = best
            for name, variable in self._factory.definition.space.variables.items():
                others = [self._try({**best.params, name: value}) for value in _values(variable, best.params[name])]
                best = min([best, *filter(None, others)], key=key)

    def _try(self, params: Mapping[str, Scalar]) -> Evaluated | None:
        """A candidate, or None where it cannot be built. Raises _Finished where it is within the budget."""
        key = tuple(params.values())
        if key not in self._known:
            seconds = self._seconds * (NEAR_FACTOR if self._smallest < NEAR else 1)
            if time.process_time() > self._begin + seconds and self._smallest < float("inf"):
                raise _Finished
            self._known[key] = self._evaluate(dict(params))
        candidate = self._known[key]
        if candidate:
            self._smallest = min(self._smallest, candidate.check.violation)
            if not candidate.check.violation:
                self.found = True
                raise _Finished
        return candidate

    def _evaluate(self, params: Params) -> Evaluated | None:
        try:
            check = self._factory.check_budget(self._factory.make(params))
        except UserError:  # values that cannot be combined
            return None
        return Evaluated(params, check, _violations(self._budget, check))


def _violations(budget: Sequence[Constraint], check: BudgetCheck) -> tuple[float, ...]:
    """The violation of each constraint; 0 where it is satisfied."""
    return tuple(constraint.violation(check.values[constraint.name]) for constraint in budget)


def _total(candidate: Evaluated) -> tuple[float, ...]:
    return (candidate.check.violation,)


def _violation_of(place: int) -> Callable[[Evaluated], tuple[float, ...]]:
    """A key: the violation of one constraint, then of all."""
    return lambda candidate: (candidate.violations[place], candidate.check.violation)


def _shown(candidate: Evaluated) -> str:
    return describe_candidate(candidate.params, candidate.check)


def _values(variable: Variable, now: Scalar) -> list[Scalar]:
    """Other values of a variable: all of a choice; of a range its ends, the middle towards each, and the neighbours."""
    if isinstance(variable, Categorical):
        return [label for label in variable.options if label != now]
    assert isinstance(now, int | float)
    near = [variable.low, variable.high, variable.between(variable.low, now), variable.between(now, variable.high)]
    near += [variable.beside(now, -1), variable.beside(now, 1)]
    return [value for value in dict.fromkeys(near) if value != now]
