"""Budgets limit costs: `flops_per_token <= 3.1e9`, `state_bytes@131072 <= 64MiB`, `params: 1.4e9 +- 2%`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from hybridkit.recipe.yaml_reader import Document, KeyPath
from hybridkit.system.errors import UserError

_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([kM]|[KMGT]iB)?"
_NAME = r"([A-Za-z_][\w.]*(?:@\w+)?)"
_LIMIT = re.compile(rf"{_NAME}\s*:?\s*(<=|>=)\s*{_NUMBER}", re.ASCII)
_BAND = re.compile(rf"{_NAME}\s*:?\s*{_NUMBER}\s*(?:\+-|±)\s*([0-9]*\.?[0-9]+)\s*%", re.ASCII)
_EXAMPLES = "`flops_per_token <= 3.1e9`, `state_bytes@131072 <= 64MiB` or `params: 1.4e9 +- 2%`"


@dataclass(frozen=True)
class Constraint:
    """The name of a metric and its allowed range, both ends included; either end may be infinite."""

    name: str
    low: float
    high: float
    text: str  # as in the file

    def violation(self, value: float) -> float:
        """How far a value is outside the range, as a share of the limit that it exceeds; 0 inside."""
        if value > self.high:
            return value / self.high - 1 if self.high else float("inf")
        return max(0.0, 1 - value / self.low) if self.low > 0 else 0.0


@dataclass(frozen=True)
class BudgetCheck:
    """The costs of a candidate that a budget names, and by how much they violate it."""

    values: dict[str, float]  # by name of the metric
    violation: float  # sum over constraints; 0: within the budget

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value:.6g}" for name, value in self.values.items())


def check_budget(budget: Sequence[Constraint], metric: Callable[[str], float]) -> BudgetCheck:
    """Compare metrics with every constraint of a budget."""
    values = {constraint.name: metric(constraint.name) for constraint in budget}
    return BudgetCheck(values, sum(constraint.violation(values[constraint.name]) for constraint in budget))


def read_budget(document: Document) -> tuple[Constraint, ...]:
    """The constraints of `budget:`, a list of expressions or a mapping of names to limits. Raises UserError."""
    said = document.data.get("budget") or []
    return tuple(_constraint(document, path, text) for path, text in _expressions(said, document))


def _expressions(said: Any, document: Document) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(said, dict):
        yield from ((("budget", name), _said(name, limit)) for name, limit in said.items())
        return
    for place, item in enumerate(said if isinstance(said, list) else [said]):
        if isinstance(item, dict):
            yield from ((("budget", place), _said(name, limit)) for name, limit in item.items())
        else:
            yield ("budget", place), str(item)


def _said(name: str, limit: Any) -> str:
    """A key and its value as an expression; a key without one, as in `{params <= 3}`, is the whole of it."""
    return str(name) if limit is None else f"{name}: {limit}"


def _constraint(document: Document, path: KeyPath, text: str) -> Constraint:
    if found := _LIMIT.fullmatch(text.strip()):
        name, sign, number, unit = found.groups()
        limit = _finite(document, path, text, float(number) * _UNITS[unit or ""])
        low, high = (-float("inf"), limit) if sign[0] == "<" else (limit, float("inf"))
        return Constraint(name, low, high, text)
    if found := _BAND.fullmatch(text.strip()):
        name, number, unit, percent = found.groups()
        middle = _finite(document, path, text, float(number) * _UNITS[unit or ""])
        share = _finite(document, path, text, float(percent) / 100)
        return Constraint(name, middle * (1 - share), middle * (1 + share), text)
    raise UserError(f"{document.where(path)}: budget: `{text[:80]}` is no constraint; write {_EXAMPLES}")


def _finite(document: Document, path: KeyPath, text: str, number: float) -> float:
    if not isfinite(number):
        raise UserError(f"{document.where(path)}: budget: `{text[:80]}`: the number is too large")
    return number
