"""A study's trials as plain data, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

from hybridkit.evaluate.intervals import student
from hybridkit.schema import Scalar

State = Literal["running", "done", "pruned", "failed"]


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
class Record:
    """A trial: the choice it tries and what it came to. `values` hold, for each seed, the figure of each objective."""

    number: int
    state: State
    params: dict[str, Scalar]
    pattern: str = ""
    key: str = ""
    values: list[list[float]] = field(default_factory=list)
    aliases: list[Alias] = field(default_factory=list)  # other choices that come to the same recipe
    memory: dict[str, Any] = field(default_factory=dict)  # the sampler's
    costs: dict[str, float] = field(default_factory=dict)  # figures that the budget names
    proposals: int = 0  # made up to this one, itself included
    rejected: int = 0  # of them, out of budget
    duplicates: int = 0  # of them, known already
    owner: str = ""  # the folder, and its machine, whose search runs it
    rungs: dict[str, float] = field(default_factory=dict)  # the running loss at the pruner's steps
    reason: str = ""  # why it failed or was pruned
    seconds: float = 0.0

    @property
    def means(self) -> list[float]:
        """Of each objective, over seeds."""
        return [mean(column) for column in zip(*self.values, strict=True)]

    @property
    def spreads(self) -> list[float | None]:
        """Half the 95 % confidence interval of each mean, by Student's t; None for a single seed."""
        return [half_interval(column) for column in zip(*self.values, strict=True)]


def half_interval(values: Sequence[float]) -> float | None:
    """Half the 95 % confidence interval of a mean, by Student's t.

    None for a single value and for equal ones, which do not show how much others would differ.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    return student(len(values) - 1) * spread / len(values) ** 0.5 if spread else None


def front(values: Sequence[Sequence[float]], maximized: Sequence[bool]) -> list[int]:
    """The places of the values that no other dominates: none is as good in all objectives and better in one."""
    losses = _losses(values, maximized)
    return [place for place, mine in enumerate(losses) if not any(_dominates(other, mine) for other in losses)]


def rank(values: Sequence[Sequence[float]], maximized: Sequence[bool]) -> list[int]:
    """All places in order: front by front, within one by the first objective, then by place."""
    left, order = list(range(len(values))), list[int]()
    losses = _losses(values, maximized)
    while left:
        best = [left[place] for place in front([values[place] for place in left], maximized)]
        order += sorted(best, key=lambda place: (losses[place], place))
        left = [place for place in left if place not in best]
    return order


def _losses(values: Sequence[Sequence[float]], maximized: Sequence[bool]) -> list[tuple[float, ...]]:
    return [tuple(-x if more else x for x, more in zip(row, maximized, strict=True)) for row in values]


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
