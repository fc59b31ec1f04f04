"""A plan as a family of checkpoints looks at it: layers of a mixer and an FFN, and options that must be plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from hybridkit.block import Block, Value, window_of, write_value
from hybridkit.hub.family import CannotSay
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import Plan

_SIZES = {"width", "heads", "vocab", "ffn", "rules", "tie", "norm_eps", "embedding_scale"}  # what every family says


class Pair(NamedTuple):
    """A mixer and the FFN behind it, with all sizes written out, and the number of the mixer's entry."""

    entry: int
    mixer: Any  # a block of the kinds that `pairs` was asked for
    ffn: Any


def pairs(plan: Plan, mixers: Sequence[str], ffns: Sequence[str] = ("ffn",)) -> list[Pair]:
    """The stack as layers of a mixer and an FFN. Raises CannotSay for another stack, or for other blocks."""
    for index, entry in enumerate(plan.entries):
        if len(entry.branches) > 1:
            raise CannotSay(f"entry {index} has blocks side by side")
    blocks = [entry.block.resolved(plan.dims) for entry in plan.entries]
    for index, block in enumerate(blocks):
        if block.name() not in (ffns if index % 2 else mixers):
            wanted = " or ".join(ffns if index % 2 else mixers)
            raise CannotSay(f"entry {index} is {block.name()}, where every layer has {wanted}")
    if len(blocks) % 2:
        raise CannotSay(f"the last {blocks[-1].name()} has no FFN behind it")
    return [Pair(index, *blocks[index : index + 2]) for index in range(0, len(blocks), 2)]


def one(values: Iterable[Any], what: str) -> Any:
    """The value that all layers share. Raises CannotSay where they differ."""
    found = list(dict.fromkeys(values))
    if len(found) != 1:
        raise CannotSay(f"{what} differs between layers: {', '.join(map(str, found[:4]))}")
    return found[0]


def plain(block: Block, *said: str) -> None:
    """Raises CannotSay where an argument that the family does not say (`said`) is not at its default."""
    for name, field in type(block).model_fields.items():
        if name not in (*said, "window") and getattr(block, name) != field.get_default(call_default_factory=True):
            raise CannotSay(f"{block.name()} has {name}={getattr(block, name)}")


def plain_model(config: ModelConfig, *said: str) -> None:
    """Raises CannotSay where an option of the model that the family does not say is not at its default."""
    for field in fields(config):
        default = field.default if field.default is not MISSING else None
        if field.name not in (*said, *_SIZES) and getattr(config, field.name) != default:
            raise CannotSay(f"model.{field.name} is {getattr(config, field.name)}")


def window(block: Block) -> int | None:
    """The window outside training; None where the block has none."""
    policy = window_of(block)
    return policy.largest if policy else None


def call(name: str, arguments: Mapping[str, Value], window: int | None = None) -> str:
    """A call of a pattern: `swa(kv_heads=2):128`."""
    said = ",".join(f"{key}={write_value(value)}" for key, value in arguments.items())
    return name + (f"({said})" if said else "") + (f":{window}" if window else "")
