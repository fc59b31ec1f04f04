"""What `sa` and `swa` begin with in place of another attention: every weight that both have.

The two compute the same where their options are the same and no window hides anything. An option may differ where the
pattern says so, as `sa(theta=null)` does in place of an attention with positions (HypeNet, arXiv 2601.22156); one left
at its default may not. No weight of the attention is lost. What this block has beside them, such as norms of queries
and keys, a gate or sinks, stays as it is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hybridkit.block import AttentionWeights, Block, Start, write_value


class Heads(NamedTuple):
    """How the width is cut: query heads, key-value heads, width of a head."""

    q: int
    kv: int
    size: int


def mapped(block: Any, attention: AttentionWeights, heads: Heads) -> Sequence[Start]:
    """The weights of an attention for `block`; key-value heads are repeated where it has more of them.

    Raises ValueError where the heads do not fit, an option that the attention has is left at its default, or a weight
    of the attention has no place.
    """
    like = f"write {_like(block, attention)}"
    if (heads.q, heads.size) != (attention.heads, attention.head) or heads.kv % attention.kv_heads:
        raise ValueError(f"{block} does not fit {attention}; {like}")
    for name in attention.arguments.keys() - type(block).model_fields.keys():
        raise ValueError(f"the attention has {name}, which {block.name()} has not")
    for name in _left_out(block, attention):
        said = f"{name}={write_value(attention.arguments[name])}"
        raise ValueError(f"the attention has {said}, which {block} does not say; {like}")
    for name in attention.weights:
        if not _has(block, name, attention, heads):
            raise ValueError(f"{block} has no place for {name} of the attention; {like}")
    return [_start(attention, name, heads.kv) for name in attention.weights]


def _left_out(block: Block, attention: AttentionWeights) -> list[str]:
    """The options that are at their default here and have another value there."""
    said, fields = attention.arguments, type(block).model_fields
    return [name for name in said if name not in _SIZES and getattr(block, name) == fields[name].default != said[name]]


_SIZES = ("heads", "kv_heads", "head")


def _like(block: Any, attention: AttentionWeights) -> Block:
    """The block with the attention's sizes, and its options where it says none of its own."""
    sizes = {"heads": attention.heads, "kv_heads": attention.kv_heads, "head": attention.head}
    options = {name: attention.arguments[name] for name in _left_out(block, attention)}
    return block.model_copy(update={**sizes, **options})


def _has(block: Any, name: str, attention: AttentionWeights, heads: Heads) -> bool:
    """Whether the block has a weight of this name, with rows for the attention's."""
    part, _, kind = name.partition(".")
    if part in ("q_norm", "k_norm"):
        whole = heads.size * attention.heads if part == "q_norm" else heads.size * attention.kv_heads
        return bool(block.qk_norm) and len(attention.weights[name]) == (heads.size if block.qk_norm is True else whole)
    if part == "sinks":
        return block.sinks
    biased = kind != "bias" or block.bias in (True, "out" if part == "out" else "qkv")
    return biased and (part != "gate" or block.gate)


def _start(attention: AttentionWeights, name: str, kv_heads: int) -> Start:
    """A weight, with its key-value heads repeated to `kv_heads`."""
    value = attention.weights[name]
    if not attention.is_shared(name) or kv_heads == attention.kv_heads:
        return Start(name, value, "copied", name)
    return Start(name, attention.repeated(value, kv_heads), "repeated", name)
