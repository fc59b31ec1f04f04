"""The kinds of variables: a choice, a whole number, a real number, and a free sequence of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridkit.recipe.schema import Scalar
from hybridkit.search.template import elements

LARGEST_NUMBER = 1 << 53  # up to here a float holds all whole numbers
_PROBES = 16  # values of a number up to which all are tried before a study begins
KINDS = ("choice", "int", "float", "log")


@dataclass(frozen=True)
class Categorical:
    """One of several values, each with a label; in a list, a value is its own label."""

    options: Mapping[Scalar, Scalar]

    def probes(self) -> list[Scalar]:
        """The values that are tried before a study begins."""
        return list(self.options)

    def count(self) -> int | None:
        """The number of values."""
        return len(self.options)

    def grid(self) -> list[Scalar] | None:
        """All values, or None where they are infinite."""
        return list(self.options)

    def value(self, label: Scalar) -> Scalar:
        """The value of a label."""
        return self.options[label]

    def holds(self, label: Scalar) -> bool:
        """Whether this is one of the labels, with the same type: 1 and true differ."""
        return any(type(label) is type(option) and label == option for option in self.options)


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included; whole if `low` is. `log`: uniform in the logarithm."""

    low: int | float
    high: int | float
    step: int | float | None
    log: bool

    def probes(self) -> list[Scalar]:
        """The values that are tried before a study begins."""
        every = self.grid() if (self.count() or LARGEST_NUMBER) <= _PROBES else None
        return every or [self.low, self.high]

    def count(self) -> int | None:
        """The number of values, or None where it is infinite."""
        return None if self.step is None else 1 + int((self.high - self.low) / self.step + 1e-9)

    def grid(self) -> list[Scalar] | None:
        """All values, or None where they are infinite."""
        if self.step is None:
            return None
        return [self.low + n * self.step for n in range(self.count() or 0)]

    def between(self, low: int | float, high: int | float) -> int | float:
        """The middle of two values, on the logarithmic scale where `log` is set."""
        middle = (low * high) ** 0.5 if self.log else (low + high) / 2
        return middle if self.step is None else self.beside(self.low, round((middle - self.low) / self.step))

    def beside(self, value: int | float, steps: int) -> int | float:
        """The value `steps` steps away, at most the end of the range; the value itself where there is no step."""
        if self.step is None:
            return value
        last = self.low + ((self.count() or 1) - 1) * self.step
        return max(self.low, min(last, value + steps * self.step))

    def value(self, label: Scalar) -> Scalar:
        """The number; a sum of steps as a user would write it: .1 and twice .1 are .3, not .30000000000000004."""
        return float(f"{label:.12g}") if self.step is not None and isinstance(label, float) else label

    def holds(self, label: Scalar) -> bool:
        """Whether this is a number in the range, and whole if the range is."""
        types = int if isinstance(self.low, int) else int | float
        if not isinstance(label, types) or isinstance(label, bool):
            return False
        rounding = 1e-9 * (self.high - self.low)
        return self.low - rounding <= label <= self.high + rounding


Variable = Categorical | Number


@dataclass(frozen=True)
class FreeSequence:
    """`length` layers, each chosen from `of`; a symmetric sequence equals its reverse."""

    length: int
    of: Categorical
    symmetric: bool

    def names(self, name: str) -> list[str]:
        """The names of its variables, one for each free layer."""
        free = (self.length + 1) // 2 if self.symmetric else self.length
        return [f"{name}.{place}" for place in range(1, free + 1)]

    def template(self, chosen: Sequence[Scalar]) -> str:
        """The pattern for a choice of every free layer."""
        layers = [str(self.of.value(label)) for label in chosen]
        mirrored = layers[: self.length - len(layers)][::-1] if self.symmetric else []
        return f"[{', '.join([*layers, *mirrored])}]"


def read_item(said: Any) -> Variable | FreeSequence | Scalar:
    """Read a value of `space:`; text and single values are templates. Raises ValueError."""
    if isinstance(said, list):
        return _choice(said)
    if not isinstance(said, dict):
        return said
    if "length" in said:
        return _sequence(said)
    kind = next((kind for kind in KINDS if kind in said), None)
    if kind is None or set(said) - {kind, "step"} or (kind in ("choice", "log") and "step" in said):
        raise ValueError(
            "should be a list of choices, {int: [1, 4]}, {float: [0, 1]} (both with a step, if wanted), "
            "{log: [1e-4, 1e-2]} or {length: 8, of: [...], symmetric: no}"
        )
    return _choice(said[kind]) if kind == "choice" else _number(kind, said[kind], said.get("step"))


def read_choices(said: Any) -> Categorical:
    """Read named values, as in `patterns:`. Raises ValueError."""
    if not isinstance(said, dict) or not said or not all(isinstance(value, str) for value in said.values()):
        raise ValueError("should give every pattern a name, as in short: [swa:8, mlstm]*2")
    return Categorical(dict(said))


def _choice(values: Any) -> Categorical:
    if isinstance(values, dict):
        return read_choices(values)
    if not isinstance(values, list) or not values or any(isinstance(value, list | dict) for value in values):
        raise ValueError("should be a list of at least one number or text")
    options = dict(zip(values, values, strict=True))
    if len(options) < len(values):  # 1, 1.0 and true are equal, here and in the storage
        raise ValueError("names a choice twice")
    return Categorical(options)


def _number(kind: str, ends: Any, step: Any) -> Number:
    types = int if kind == "int" else int | float
    numbers = [*ends, *([] if step is None else [step])] if isinstance(ends, list) and len(ends) == 2 else []
    if not numbers or not all(isinstance(number, types) and not isinstance(number, bool) for number in numbers):
        raise ValueError(f"{kind}: should be the {'whole ' if kind == 'int' else ''}numbers [lowest, highest]")
    if any(abs(number) > LARGEST_NUMBER for number in numbers):
        raise ValueError(f"{kind}: numbers should be at most {LARGEST_NUMBER:,}")
    low, high = ends if kind == "int" else map(float, ends)
    if low >= high or (kind == "log" and low <= 0) or (step is not None and step <= 0):
        raise ValueError(f"{kind}: the lowest number comes first, a step and the ends of a log range are above 0")
    return Number(low, high, step or (1 if kind == "int" else None), kind == "log")


def _sequence(said: dict[str, Any]) -> FreeSequence:
    if unknown := set(said) - {"length", "of", "symmetric"}:
        raise ValueError(f"a sequence has length, of and symmetric, not {', '.join(sorted(unknown))}")
    length, symmetric = said["length"], said.get("symmetric", False)
    if isinstance(symmetric, str):  # as YAML 1.2 reads yes and no
        symmetric = {"no": False, "yes": True}.get(symmetric, symmetric)
    if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= 4096:
        raise ValueError("length: should be a whole number from 1 to 4096")
    if not isinstance(symmetric, bool):
        raise ValueError("symmetric: should be yes or no")
    of = said.get("of")
    layers = list(elements(of)) if isinstance(of, str) else of
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise ValueError("of: should be a list of layers, as in [swa:16, swa:64, mlstm]")
    return FreeSequence(length, _choice(layers), symmetric)
