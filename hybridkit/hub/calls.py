"""Blocks as families of checkpoints look at them, and calls of a pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hybridkit.block import Block, Value, window_limit, window_of, write_value
from hybridkit.hub.family import CannotSay


def one(values: Iterable[Any], what: str) -> Any:
    """The value that all layers share. Raises CannotSay where they differ."""
    found = list(dict.fromkeys(values))
    if len(found) != 1:
        raise CannotSay(f"{what} differs between layers: {', '.join(map(str, found[:4]))}")
    return found[0]


def window(block: Block) -> int | None:
    """The window outside training; None where the block has none."""
    policy = window_of(block)
    return window_limit(policy)


def call(name: str, arguments: Mapping[str, Value], window: int | None = None) -> str:
    """A call of a pattern: `swa(kv_heads=2):128`."""
    said = ",".join(f"{key}={write_value(value)}" for key, value in arguments.items())
    return name + (f"({said})" if said else "") + (f":{window}" if window else "")


def own_scale(scale: float, head: int) -> dict[str, Any]:
    """The argument `scale` of attention; none where it is the default, head ** -.5."""
    return {} if scale == head**-0.5 else {"scale": scale}
