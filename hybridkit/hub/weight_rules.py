"""How the weights of two programs correspond: names, and for some a function of tensors, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

# Takes tensors in the order of names, and gives views and copies of them: no arithmetic.
TensorFunction = Callable[[list[Tensor]], list[Tensor]]


def same(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors that differ in nothing but their names."""
    return tensors


class Rule(NamedTuple):
    """Some weights under our names and under theirs, and how one becomes the other."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: TensorFunction = same
    to_theirs: TensorFunction = same
    packed: bool = False  # theirs are bytes that hold smaller numbers


def rename(pairs: Iterable[tuple[str, str]]) -> list[Rule]:
    """A rule a pair of names, ours and theirs."""
    return [Rule((ours,), (theirs,)) for ours, theirs in pairs]


def to_theirs(rules: Sequence[Rule], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Their tensors by name, one rule at a time."""
    for rule in rules:
        yield from zip(rule.theirs, rule.to_theirs([weights[name] for name in rule.ours]), strict=True)
