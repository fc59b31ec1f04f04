"""The fields `mamba_*` of models that have Mamba-2 beside attention."""

from __future__ import annotations

import math
from typing import Any

from hybridkit.hub.families.mamba2 import limits
from hybridkit.hub.fields import Fields


def mamba_arguments(fields: Fields, inner: int) -> dict[str, Any]:
    """The arguments of Mamba-2 of this inner width that the fields `mamba_*` say. Raises UserError."""
    heads = fields.whole("mamba_n_heads", most=1 << 16)
    head = inner // heads if fields.take("mamba_d_head", "auto") == "auto" else fields.whole("mamba_d_head")
    if head * heads != inner:
        raise fields.wrong("mamba_d_head", f"{heads} heads of {head} are not the inner width {inner}")
    low, high = limits(fields, "time_step_limit")
    return {
        "heads": heads,
        "head": head,
        "state": fields.whole("mamba_d_state", most=1 << 20),
        "groups": fields.whole("mamba_n_groups", most=1 << 16),
        "conv": fields.whole("mamba_d_conv", most=1 << 10),
        "conv_bias": fields.switch("mamba_conv_bias"),
        "bias": fields.switch("mamba_proj_bias"),
        "dt_min": low,
        **({"dt_max": high} if high < math.inf else {}),
    }


def mamba_fields(block: Any) -> dict[str, Any]:
    """The same as fields of config.json."""
    return {
        "mamba_n_heads": block.heads,
        "mamba_d_head": block.head,
        "mamba_d_state": block.state,
        "mamba_n_groups": block.groups,
        "mamba_d_conv": block.conv,
        "mamba_conv_bias": block.conv_bias,
        "mamba_proj_bias": block.bias,
        **({"time_step_limit": [block.dt_min, block.dt_max or 3e38]} if block.dt_min or block.dt_max else {}),
    }
