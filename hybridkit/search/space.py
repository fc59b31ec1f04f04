"""The space of candidates: variables, templates with variables, and the recipe fields that they set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from hybridkit.recipe.schema import Scalar
from hybridkit.recipe.yaml_reader import Document, KeyPath
from hybridkit.search.template import fill, holes
from hybridkit.search.variables import Categorical, FreeSequence, Number, Variable, read_choices, read_item
from hybridkit.system.errors import UserError, nearest

Params = dict[str, Scalar]  # the values of all variables: a candidate
Item = Variable | FreeSequence | Scalar

PATTERN = "pattern"
FREE = "layers"  # a variable with this name is the pattern, if the space has no other pattern
GRID = 1_000_000  # points of a grid at most
_PROBES = 128  # combinations of values up to which all are tried before a study begins


class SpaceError(UserError):
    """A mistake in a space: its place, what is wrong, and what would be right."""


@dataclass(frozen=True)
class Space:
    """`items` by name: `pattern` and names with a dot are fields of the recipe; others are variables of templates."""

    items: Mapping[str, Item]

    @property
    def variables(self) -> dict[str, Variable]:
        """All variables by name, in the order of the file; a sequence has one variable for each free layer."""
        found: dict[str, Variable] = {}
        for name, item in self.items.items():
            if isinstance(item, FreeSequence):
                found |= dict.fromkeys(item.names(name), item.of)
            elif isinstance(item, Categorical | Number):
                found[name] = item
        return found

    @property
    def fields(self) -> list[str]:
        """The recipe fields that the space sets, with dots."""
        return [name for name in self.items if name == PATTERN or "." in name]

    def fill(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The values of all fields for a choice of all variables."""
        return {name: self._value(name, params) for name in self.fields}

    def size(self) -> int | None:
        """The number of choices; None where it is infinite."""
        counts = [variable.count() for variable in self.variables.values()]
        return None if any(count is None for count in counts) else prod(count for count in counts if count)

    def grid(self) -> Iterator[Params]:
        """All choices; the first variable changes slowest. Raises SpaceError where they are too many or infinite."""
        infinite = [name for name, variable in self.variables.items() if variable.count() is None]
        if infinite:
            raise SpaceError(
                f"sampler: grid needs a list of values, but space.{infinite[0]} is a range; give it a step"
            )
        if (size := self.size() or 0) > GRID:
            raise SpaceError(f"sampler: a grid of {size:.3g} choices, more than {GRID:,}; take fewer values or tpe")
        grids = {name: variable.grid() or [] for name, variable in self.variables.items()}
        yield from (dict(zip(grids, values, strict=True)) for values in product(*grids.values()))

    def probes(self) -> Iterator[Params]:
        """Choices that contain every value: all choices if they are few, else one variable varies at a time."""
        probes = {name: variable.probes() for name, variable in self.variables.items()}
        if prod(map(len, probes.values())) <= _PROBES:
            yield from (dict(zip(probes, values, strict=True)) for values in product(*probes.values()))
            return
        first = {name: values[0] for name, values in probes.items()}
        yield first
        yield from (first | {name: value} for name, values in probes.items() for value in values[1:])

    def _value(self, name: str, params: Mapping[str, Scalar]) -> Scalar:
        item = self.items[name]
        if isinstance(item, FreeSequence):
            value: Scalar = item.template([params[place] for place in item.names(name)])
        else:
            value = item.value(params[name]) if isinstance(item, Categorical | Number) else item
        if not isinstance(value, str):
            return value
        return fill(value, {hole: self._value(hole, params) for hole in holes(value)})


def read_space(document: Document) -> Space:
    """Read `space:` and `patterns:` of a file. Raises SpaceError, with line and column, for mistakes."""
    items: dict[str, Item] = {}
    for name, value in (document.data.get("space") or {}).items():
        items[name] = _read(document, ("space", name), value, read_item)
    if "patterns" in document.data:
        if PATTERN in items:
            raise _error(document, ("patterns",), "the space has a pattern already; leave one of the two out")
        items[PATTERN] = _read(document, ("patterns",), document.data["patterns"], read_choices)
    if PATTERN not in items and FREE in items:
        items[PATTERN] = f"{{{FREE}}}"
    if not items:
        raise SpaceError(f"{document.where(())}: nothing varies: a study needs `space:` or `patterns:`")
    _check_names(document, items)
    space = Space(items)
    if not space.variables:
        advice = "; give several patterns names, in `patterns:`" if PATTERN in items else ""
        raise _error(document, ("space",), f"nothing varies: no variable is a list or a range{advice}")
    return space


def _read(document: Document, path: KeyPath, value: Any, read: Any) -> Any:
    try:
        item = read(value)
        for text in _texts(item):
            holes(text)
    except ValueError as error:
        raise _error(document, path, str(error)) from None
    return item


def _check_names(document: Document, items: Mapping[str, Item]) -> None:
    """Raises SpaceError for an undefined variable, one that contains itself, and one that no template uses."""
    used: set[str] = set()

    def visit(name: str, around: tuple[str, ...]) -> None:
        if name in around:
            raise _error(document, ("space", around[0]), f"{{{name}}} is part of a circle")
        used.add(name)
        for hole in (hole for text in _texts(items[name]) for hole in holes(text)):
            if hole not in items:
                close = nearest(hole, items)
                hint = f"; did you mean {{{close}}}?" if close else f"; known here: {', '.join(items)}"
                raise _error(document, ("space", name), f"the variable {{{hole}}} is not defined{hint}")
            visit(hole, (*around, name))

    for name in items:
        if name == PATTERN or "." in name:
            visit(name, ())
    for name in items.keys() - used:
        raise _error(document, ("space", name), f"{name} is used by no template; fields of the recipe have a dot")


def _texts(item: Item) -> list[str]:
    """All texts that an item may stand for."""
    choice = item.of if isinstance(item, FreeSequence) else item
    values = choice.options.values() if isinstance(choice, Categorical) else [choice]
    return [value for value in values if isinstance(value, str)]


def _error(document: Document, path: KeyPath, message: str) -> SpaceError:
    return SpaceError(f"{document.where(path)}: {'.'.join(map(str, path))}: {message}")
