"""A study's trials as plain data, and how they compare."""

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

StateName = Literal["running", "done", "pruned", "failed"]


class Alias(NamedTuple):
    """A choice that comes to the recipe of an earlier trial, whose value stands for it; `proposal`: its number."""

    proposal: int
    params: dict[str, Scalar]


class Counts(NamedTuple):
    """Proposals so far, and how many of them were out of budget or known already."""

    proposals: int = 0
    rejected: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Trial:
    """A trial: the choice it tries and what it came to. `values` hold, for each seed, the figure of each objective."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # for those that are read

    number: int
    state: StateName
    params: dict[str, Scalar]
    pattern: str = ""
    key: str = ""
    values: list[list[float | None]] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)  # other choices that come to the same recipe
    memory: dict[str, Any] = field(default_factory=dict)  # the sampler's
    costs: dict[str, float] = field(default_factory=dict)  # figures that the budget names
    proposals: int = 0  # made up to this one, itself included
    rejected: int = 0  # of them, out of budget
    duplicates: int = 0  # of them, known already
    owner: str = ""  # the folder, and its machine, whose search runs it
    rungs: dict[str, float | None] = field(default_factory=dict)  # the running loss at the pruner's steps
    reason: str = ""  # why it failed or was pruned
    origin: dict[str, str] = field(
        default_factory=dict
    )  # hashes of its text and plug-ins (hybridkit.search.provenance)
    seconds: float = 0.0

    @property
    def means(self) -> list[float]:
        """Of each objective, over seeds; NaN where a seed has no value."""
        return [mean(column) for column in self._columns()]

    @property
    def half_intervals(self) -> list[float | None]:
        """Half the 95 % confidence interval of each mean, by Student's t; None where seeds do not show it."""
        return [half_interval(column) for column in self._columns()]

    def has_values(self, objectives: int) -> bool:
        """Whether every seed has a finite value of each objective: what has none is never compared."""
        rows = [len(row) == objectives and all(is_value(value) for value in row) for row in self.values]
        return bool(rows) and all(rows)

    def _columns(self) -> list[list[float]]:
        columns = zip(*self.values, strict=True)
        return [[math.nan if value is None else value for value in column] for column in columns]


def is_value(value: object) -> TypeGuard[float]:
    """Whether a figure says something: a finite number. Null and NaN stand for nothing that could be counted."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def half_interval(values: Sequence[float]) -> float | None:
    """Half the 95 % confidence interval of a mean, by Student's t.

    None for a single value and for equal ones, which do not show how much others would differ.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    return student(len(values) - 1) * spread / len(values) ** 0.5 if spread else None


def pareto_front(values: Sequence[Sequence[float | None]], maximized: Sequence[bool]) -> list[int]:
    """The places of the values that no other dominates: none is as good in all objectives and better in one.

    A row that lacks a value (None, NaN or infinity) is not compared, and on no front.
    """
    losses = _losses(values, maximized)
    return [place for place, mine in losses.items() if not any(_dominates(other, mine) for other in losses.values())]


def rank(values: Sequence[Sequence[float | None]], maximized: Sequence[bool]) -> list[int]:
    """All places in order: front by front, within one by the first objective, then by place; rows that lack a value
    come last."""
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
    """By place, what is to be made small; rows that lack a value are left out."""
    whole = {place: [x for x in row if is_value(x)] for place, row in enumerate(values)}
    return {
        place: tuple(-x if more else x for x, more in zip(row, maximized, strict=True))
        for place, row in whole.items()
        if len(row) == len(values[place])
    }


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
