"""The stack as people read it: repeated groups of units, a unit being a mixer and the blocks behind it up to the next.

It is made from plain data, the layers of `show --json` or `flops --json`; a layer may have `branches`, side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridkit.language.parser import Call, pattern_tree
from hybridkit.language.printer import canonical

StackLayer = Mapping[str, Any]


@dataclass(frozen=True)
class Repeated:
    """Layers and groups in order, and how many times they are repeated."""

    times: int
    parts: tuple[StackLayer | Repeated, ...]


def stack_tree(layers: Sequence[StackLayer], text: str, mixes: Sequence[bool]) -> Repeated:
    """The shortest form of a stack that takes no unit apart. `text`: the key of a layer that tells it from others."""
    units = list(_units(layers, mixes))
    names: dict[tuple[str, ...], str] = {}
    said = [names.setdefault(tuple(layer[text] for layer in unit), f"u{len(names)}") for unit in units]
    known = dict(zip(said, units, strict=True))
    return _grouped(pattern_tree(canonical(said)), known)


def _units(layers: Sequence[StackLayer], mixes: Sequence[bool]) -> Iterator[tuple[StackLayer, ...]]:
    begin = 0
    for at in range(1, len(layers)):
        if mixes[at] and any(mixes[begin:at]):
            yield tuple(layers[begin:at])
            begin = at
    yield tuple(layers[begin:])


def _grouped(part: Any, known: Mapping[str, Sequence[StackLayer]]) -> Repeated:
    """A part of the parsed form, the names of units replaced by their layers."""
    if isinstance(part, Call):
        return Repeated(1, tuple(known[part.name]))
    inner = [_grouped(child, known) for child in part.parts]
    parts = tuple(layer for one in inner for layer in (one.parts if one.times == 1 else (one,)))
    if len(parts) == 1 and isinstance(parts[0], Repeated):
        return Repeated(part.times * parts[0].times, parts[0].parts)
    return Repeated(part.times, parts)
