"""Layers of linear and of full attention, as configs list them, and Gated DeltaNet's fields."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.fields import Fields

FULL, LINEAR = "full_attention", "linear_attention"


def layer_types(blocks: list[Block]) -> list[str]:
    """The kind of each layer's mixer."""
    return [FULL if block.name() in ("sa", "mla") else LINEAR for block in blocks]


def gdn_call(fields: Fields, heads: int | None = None, head: int | None = None, **arguments: Any) -> str:
    """The call that the fields `linear_*` say. Raises UserError."""
    key = fields.whole("linear_key_head_dim", head, most=1 << 20)
    key_heads = fields.whole("linear_num_key_heads", heads, most=1 << 16)
    said = {
        "heads": fields.whole("linear_num_value_heads", heads, most=1 << 16),
        "key_heads": key_heads,
        "head": key,
        "value": fields.whole("linear_value_head_dim", 2 * key, most=1 << 20),
        "conv": fields.whole("linear_conv_kernel_dim", 4, most=1 << 10),
    }
    return call("gdn", {**said, **arguments})


def gdn_fields(block: Any) -> dict[str, Any]:
    """The fields of a Gated DeltaNet."""
    return {
        "linear_num_value_heads": block.heads,
        "linear_num_key_heads": block.key_heads,
        "linear_key_head_dim": block.head,
        "linear_value_head_dim": block.value,
        "linear_conv_kernel_dim": block.conv,
    }
