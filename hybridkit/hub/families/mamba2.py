"""Mamba2ForCausalLM: Mamba-2 alone, without feed-forward networks."""

from __future__ import annotations

import math
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.decoding import step_fault
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, mixers, model_options, sizes, taps
from hybridkit.model.plan import Plan

MAMBA = Part(
    "mixer",
    {"in_proj": "in_proj", "conv": "conv1d", "dt_bias": "dt_bias", "A_log": "A_log", "D": "D", "norm": "norm",
     "out_proj": "out_proj"},
    (taps("conv.weight", "conv1d.weight"),),
)  # fmt: skip
EPS = 1e-5  # of the norm behind the gate


class Mamba2Family(Layered):
    """Mamba-2: `mamba2*N` with `model.ffn: null`."""

    preference = 30
    model_type = "mamba2"
    architecture = "Mamba2ForCausalLM"
    embedding = "backbone.embeddings.weight"
    last_norm = "backbone.norm_f.weight"
    layer = "backbone.layers"
    mixer_norms = {"norm": "norm"}
    defaults = {
        "num_heads": 128, "head_dim": 64, "vocab_size": 32768, "hidden_size": 4096, "state_size": 128,
        "num_hidden_layers": 64, "layer_norm_epsilon": EPS, "expand": 2, "conv_kernel": 4, "n_groups": 8,
        "use_conv_bias": True,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_heads", most=1 << 16)
        fields.only("hidden_act", "silu")
        fields.only("layer_norm_epsilon", EPS)
        fields.harmless("residual_in_fp32", "chunk_size", "rescale_prenorm_residual", "expand", "layer_types")
        fields.harmless("time_step_rank", "time_step_min", "time_step_max", "time_step_floor")
        low, high = limits(fields, "time_step_limit")
        said = {
            "head": fields.whole("head_dim", most=1 << 20),
            "state": fields.whole("state_size", most=1 << 20),
            "groups": fields.whole("n_groups", most=1 << 16),
            "conv": fields.whole("conv_kernel", most=1 << 10),
            **({"bias": True} if fields.switch("use_bias") else {}),
            **({} if fields.switch("use_conv_bias") else {"conv_bias": False}),
            **({"dt_min": low} if low else {}),
            **({"dt_max": high} if high < math.inf else {}),
        }
        options = model_options(fields, width, heads, "layer_norm_epsilon")
        return Described([call("mamba2", said)] * layers, {**options, "ffn": None})

    def decoding_fault(self, plan: Plan) -> str | None:
        return step_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        stack = mixers(plan, "mamba2")
        block: Any = stack[0]
        expand, rest = divmod(block.heads * block.head, plan.dims.width)
        if rest:
            raise CannotSay(f"{block.heads} heads of {block.head} are no whole multiple of the width {plan.dims.width}")
        return {
            **sizes(plan, self.tied(plan), len(stack), "layer_norm_epsilon"),
            "num_heads": block.heads,
            "head_dim": block.head,
            "state_size": block.state,
            "n_groups": block.groups,
            "expand": expand,
            "conv_kernel": block.conv,
            "use_bias": block.bias,
            "use_conv_bias": block.conv_bias,
            **({"time_step_limit": [block.dt_min, block.dt_max or 3e38]} if block.dt_min or block.dt_max else {}),
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return MAMBA


def limits(fields: Fields, name: str) -> tuple[float, float]:
    """The least and the largest step size; 0 and infinity where the config says none. Raises UserError."""
    said = fields.take(name, [0.0, math.inf])
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(one, int | float) for one in said):
        raise fields.wrong(name, "should be two numbers")
    return float(said[0]), math.inf if said[1] >= 3e38 else float(said[1])
