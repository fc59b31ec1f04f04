"""Whether anything is within a budget, asked before a study is made; answered within seconds, with the limit at fault.

Costs are nearly monotonous in most variables. So one variable after the other is set to the value that brings a
candidate nearest to a limit: that finds the least cost there is, or comes close, where thousands of draws would not.
Small spaces are tried as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from hybridkit.recipe.schema import Scalar
from hybridkit.search.budget import BudgetCheck, Constraint
from hybridkit.search.candidate import CandidateFactory, said
from hybridkit.search.samplers import Proposal
from hybridkit.search.space import Params
from hybridkit.search.variables import Categorical, Variable
from hybridkit.system.errors import UserError

SECONDS = 2.5  # for all candidates; what has not been found by then is not said to exist
CLOSE, LONGER = 0.05, 4  # where the nearest is so little outside, so many times the seconds
WHOLE = 2000  # choices up to which all are tried


class Tried(NamedTuple):
    """A candidate, and how far it is from each limit of the budget."""

    params: Params
    check: BudgetCheck
    violations: tuple[float, ...]


class _Enough(Exception):
    """Something is within the budget, or there is no time left."""


def require_feasible(
    factory: CandidateFactory, proposals: Callable[[], Iterator[Proposal]], seconds: float = SECONDS
) -> None:
    """Raise UserError, naming the limit and the nearest candidate, where nothing that is tried is within the budget."""
    look = _Look(factory, seconds)
    with suppress(_Enough):
        look.everywhere(proposals)
    if look.tried and not look.found:
        raise UserError(look.complaint())


class _Look:
    def __init__(self, factory: CandidateFactory, seconds: float) -> None:
        self._factory, self._begin, self._seconds = factory, time.monotonic(), seconds
        self._nearest = float("inf")
        self._budget = factory.definition.budget
        self._known: dict[tuple[Scalar, ...], Tried | None] = {}
        self.found = False

    @property
    def tried(self) -> list[Tried]:
        """All candidates that can be built."""
        return [tried for tried in self._known.values() if tried]

    def everywhere(self, proposals: Callable[[], Iterator[Proposal]]) -> None:
        """Raises _Enough where something is found, or time is up."""
        space = self._factory.definition.space
        for params in space.probes():
            self._try(params)
        aims = [lambda tried, place=place: (tried.violations[place], tried.check.violation)
                for place in range(len(self._budget))]  # fmt: skip
        for aim in [_total, *aims]:
            self._descend(aim)
        if (space.size() or WHOLE + 1) <= WHOLE:
            for params in space.grid():
                self._try(params)
            return
        for proposal in proposals():
            self._try(proposal.params)

    def complaint(self) -> str:
        """Which limit nothing meets, and what comes nearest; where each is met by something, what comes nearest."""
        tried = self.tried
        where = self._factory.definition.where("budget")
        unmet = [place for place in range(len(self._budget)) if all(one.violations[place] for one in tried)]
        begin = f"{where}: budget: none of {len(tried):,} candidates is within it"
        if not unmet:
            near = min(tried, key=_total)
            return f"{begin}: each limit is met by some, all together by none; nearest: {_shown(near)}"
        limit = self._budget[unmet[0]]
        near = min(tried, key=lambda one: (one.violations[unmet[0]], one.check.violation))
        others = f", nor {', '.join(f'`{self._budget[place].text}`' for place in unmet[1:])}" if unmet[1:] else ""
        return f"{begin}: nothing meets `{limit.text}`{others}; nearest: {_shown(near)}"

    def _descend(self, aim: Callable[[Tried], tuple[float, ...]]) -> None:
        """From the nearest so far, one variable at a time, as long as that comes nearer."""
        if not self.tried:
            return
        best, before = min(self.tried, key=aim), None
        while before is None or aim(best) < aim(before):
            before = best
            for name, variable in self._factory.definition.space.variables.items():
                others = [self._try({**best.params, name: value}) for value in _values(variable, best.params[name])]
                best = min([best, *filter(None, others)], key=aim)

    def _try(self, params: Mapping[str, Scalar]) -> Tried | None:
        """A candidate, or None where it cannot be built. Raises _Enough where it is within the budget."""
        key = tuple(params.values())
        if key not in self._known:
            seconds = self._seconds * (LONGER if self._nearest < CLOSE else 1)
            if time.monotonic() > self._begin + seconds and self._nearest < float("inf"):
                raise _Enough
            self._known[key] = self._made(dict(params))
        made = self._known[key]
        self._nearest = min(self._nearest, made.check.violation if made else self._nearest)
        if made and not made.check.violation:
            self.found = True
            raise _Enough
        return made

    def _made(self, params: Params) -> Tried | None:
        try:
            check = self._factory.check_budget(self._factory.make(params))
        except UserError:  # values that do not go together
            return None
        return Tried(params, check, violations(self._budget, check))


def violations(budget: Sequence[Constraint], check: BudgetCheck) -> tuple[float, ...]:
    """How far a candidate is outside each limit; 0 within."""
    return tuple(constraint.violation(check.values[constraint.name]) for constraint in budget)


def _total(tried: Tried) -> tuple[float, ...]:
    return (tried.check.violation,)


def _shown(tried: Tried) -> str:
    return f"{said(tried.params)} with {tried.check}"


def _values(variable: Variable, now: Scalar) -> list[Scalar]:
    """Other values of a variable: all of a choice; of a range its ends, and what lies half way to them and beside."""
    if isinstance(variable, Categorical):
        return [label for label in variable.options if label != now]
    assert isinstance(now, int | float)
    near = [variable.low, variable.high, variable.between(variable.low, now), variable.between(now, variable.high)]
    near += [variable.beside(now, -1), variable.beside(now, 1)]
    return [value for value in dict.fromkeys(near) if value != now]
