"""The trials of a study as plain data; Pareto front and ranking."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple, TypeGuard

from pydantic import ConfigDict

from hybridkit.evaluation.confidence import student
from hybridkit.recipe.schema import Scalar

ROUNDING = 1e-12  # of the largest value: a smaller spread comes from sums in floating point
StateName = Literal["running", "done", "pruned", "failed"]


class Alias(NamedTuple):
    """A choice with the same recipe as an earlier trial, whose value it shares; `proposal`: its number."""

    proposal: int
    params: dict[str, Scalar]


class Counts(NamedTuple):
    """The number of proposals so far, of those out of budget, and of those already known."""

    proposals: int = 0
    rejected: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Trial:
    """A trial: its choice and its results. `values` has, for each seed, the value of each objective.

    The names of the fields are the keys in the storage.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # when it is read from a storage

    number: int
    state: StateName
    params: dict[str, Scalar]
    pattern: str = ""
    key: str = ""
    values: list[list[float | None]] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)  # other choices with the same recipe
    memory: dict[str, Any] = field(default_factory=dict)  # data of the sampler
    costs: dict[str, float] = field(default_factory=dict)  # the costs that the budget names
    proposals: int = 0  # proposals so far, this one included
    rejected: int = 0  # of these, out of budget
    duplicates: int = 0  # of these, already known
    owner: str = ""  # the study folder whose search runs it
    rungs: dict[str, float | None] = field(default_factory=dict)  # the running loss by step of the pruner
    reason: str = ""  # why it failed or was pruned
    origin: dict[str, str] = field(default_factory=dict)  # what it was trained on (hybridkit.search.provenance)
    seconds: float = 0.0

    @property
    def means(self) -> list[float]:
        """The mean over seeds of each objective; NaN where a seed has no value."""
        return [mean(column) for column in self._columns()]

    @property
    def half_intervals(self) -> list[float | None]:
        """Half the 95 % confidence interval of each mean, by Student's t; None where it cannot be computed."""
        return [half_interval(column) for column in self._columns()]

    def has_values(self, objectives: int) -> bool:
        """Whether every seed has a finite value of each objective; a trial without one is not compared."""
        rows = [len(row) == objectives and all(is_value(value) for value in row) for row in self.values]
        return bool(rows) and all(rows)

    def _columns(self) -> list[list[float]]:
        columns = zip(*self.values, strict=True)
        return [[math.nan if value is None else value for value in column] for column in columns]


def all_failed(trials: Sequence[Trial]) -> str | None:
    """That every trial has failed, and why the first one did; None where one has not, or there is none."""
    if not trials or any(trial.state != "failed" for trial in trials):
        return None
    return f"every trial failed; trial {trials[0].number}: {trials[0].reason}"


def is_value(value: object) -> TypeGuard[float]:
    """Whether a metric is a finite number; null and NaN mean that there was no target to count."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def half_interval(values: Sequence[float], scale: float = 0.0) -> float | None:
    """Half the 95 % confidence interval of a mean, by Student's t.

    None for a single value and for values that are equal but for rounding, which do not show the variance. `scale`: of
    the numbers whose differences `values` are.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    rounding = ROUNDING * max([scale, *map(abs, values)])
    return student(len(values) - 1) * spread / len(values) ** 0.5 if spread > rounding else None


def pareto_front(values: Sequence[Sequence[float | None]], maximized: Sequence[bool]) -> list[int]:
    """The indices of the rows on the Pareto front: no other row is as good in all objectives and better in one.

    A row with a value that is None, NaN or infinite is not compared and is not on the front.
    """
    losses = _losses(values, maximized)
    return [place for place, mine in losses.items() if not any(_dominates(other, mine) for other in losses.values())]


def rank(values: Sequence[Sequence[float | None]], maximized: Sequence[bool]) -> list[int]:
    """All indices in order: front by front, in a front by the first objective, then by index.

    Rows with a value that is not finite come last.
    """
    order = list[int]()
    losses = _losses(values, maximized)
    missing = [place for place in range(len(values)) if place not in losses]
    left = list(losses)
    while left:
        best = [left[place] for place in pareto_front([values[place] for place in left], maximized)]
        order += sorted(best, key=lambda place: (losses[place], place))
        left = [place for place in left if place not in best]
    return order + missing


def _losses(values: Sequence[Sequence[float | None]], maximized: Sequence[bool]) -> dict[int, tuple[float, ...]]:
    """By index of the rows with finite values: the objectives, signed so that less is better."""
    whole = {place: [x for x in row if is_value(x)] for place, row in enumerate(values)}
    return {
        place: tuple(-x if more else x for x, more in zip(row, maximized, strict=True))
        for place, row in whole.items()
        if len(row) == len(values[place])
    }


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
