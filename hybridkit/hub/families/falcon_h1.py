"""FalconH1ForCausalLM: Mamba-2 and attention side by side in every layer, and constant factors (arXiv 2507.22448)."""

from __future__ import annotations

import math
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call, own_scale
from hybridkit.hub.decoding import step_fault
from hybridkit.hub.families._llama_like import ATTENTION
from hybridkit.hub.families._mamba import mamba_arguments, mamba_fields
from hybridkit.hub.families.mamba2 import EPS, MAMBA
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, model_options, sizes
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

FFN = Part("feed_forward", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})
SCALES = ("z_scale", "x_scale", "b_scale", "c_scale", "dt_scale")  # in the order of `ssm_multipliers`


class FalconH1(Layered):
    """Falcon-H1: `[mamba2(gate_norm=none) | sa]*N`."""

    preference = 60
    model_type = "falcon_h1"
    architecture = "FalconH1ForCausalLM"
    last_norm = "model.final_layernorm.weight"
    ffn_norms = {"norm": "pre_ff_layernorm"}
    scales_rows = True
    defaults = {
        "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "mamba_d_ssm": 1024,
        "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_conv_bias": True, "mamba_norm_before_gate": True, "rope_theta": 10000.0,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        head = fields.whole("head_dim", max(1, width // heads), most=1 << 20)
        bias = fields.switch("mamba_proj_bias")
        for name, value in (
            ("hidden_act", "silu"), ("attention_dropout", 0.0), ("mamba_use_mlp", True), ("attn_layer_indices", None),
        ):  # fmt: skip
            fields.only(name, value)
        if fields.switch("projectors_bias") != bias:
            raise fields.wrong("projectors_bias", "should be as mamba_proj_bias: one block has both biases or none")
        fields.harmless("mamba_chunk_size", "num_logits_to_keep", "mamba_norm_before_gate", "mlp_expansion_factor")
        if normed := fields.switch("mamba_rms_norm"):
            fields.only("mamba_norm_before_gate", False)
            fields.only("rms_norm_eps", EPS)
        gate, down = factors(fields, "mlp_multipliers", 2)
        mamba = {
            **mamba_arguments(fields, fields.whole("mamba_d_ssm", width * fields.whole("mamba_expand", most=1 << 10))),
            "gate_norm": "group" if normed else "none",
            **dict(zip(SCALES, factors(fields, "ssm_multipliers", 5), strict=True)),
            "in_scale": fields.number("ssm_in_multiplier", 1.0),
            "out_scale": fields.number("ssm_out_multiplier", 1.0),
        }
        attention = {
            "kv_heads": fields.whole("num_key_value_heads", heads, most=1 << 16),
            **({} if head == width / heads else {"head": head}),
            **rope_arguments(fields),
            **own_scale(fields.number("key_multiplier", 1.0) * head**-0.5, head),
            "bias": fields.switch("attention_bias"),
            "in_scale": fields.number("attention_in_multiplier", 1.0),
            "out_scale": fields.number("attention_out_multiplier", 1.0),
        }
        network: dict[str, Any] = {"width": fields.whole("intermediate_size"), "bias": fields.switch("mlp_bias")}
        options = {
            **model_options(fields, width, heads),
            "embedding_scale": fields.number("embedding_multiplier", 1.0),
            "logit_scale": fields.number("lm_head_multiplier", 1.0),
            "ffn": {**network, "gate_scale": gate, "out_scale": down},
        }
        return Described([f"{call('mamba2', mamba)} | {call('sa', attention)}"] * layers, options)

    def decoding_fault(self, plan: Plan) -> str | None:
        return step_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        kinds = [[block.name() for block in entry.branches] for entry in plan.entries]
        if kinds != [["mamba2", "sa"], ["ffn"]] * (len(kinds) // 2):
            raise CannotSay("its layers are mamba2 | sa, in this order, and ffn")
        found: Any = [block.resolved(plan.dims) for entry in plan.entries[:2] for block in entry.branches]
        mamba, attention, network = found
        return {
            **sizes(plan, self.tied(plan), len(kinds) // 2),
            "intermediate_size": network.width,
            "mlp_bias": network.bias,
            "mlp_multipliers": [network.gate_scale, network.out_scale],
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head,
            "rope_parameters": rope_fields(attention),
            "attention_bias": attention.bias is True,
            "key_multiplier": key_factor(attention.scale, attention.head) if attention.scale else 1.0,
            "attention_in_multiplier": attention.in_scale,
            "attention_out_multiplier": attention.out_scale,
            **mamba_fields(mamba),
            "mamba_d_ssm": mamba.heads * mamba.head,
            "projectors_bias": mamba.bias,
            "mamba_rms_norm": mamba.gate_norm != "none",
            "mamba_norm_before_gate": False,
            "ssm_multipliers": [getattr(mamba, name) for name in SCALES],
            "ssm_in_multiplier": mamba.in_scale,
            "ssm_out_multiplier": mamba.out_scale,
            "embedding_multiplier": plan.config.row_scale,
            "lm_head_multiplier": plan.config.logit_scale,
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return {"mamba2": MAMBA._replace(module="mamba"), "sa": ATTENTION}.get(block.name(), FFN)


def factors(fields: Fields, name: str, count: int) -> list[float]:
    """A list of so many positive numbers; ones where it is missing. Raises UserError."""
    said = fields.take(name, [1.0] * count)
    if not isinstance(said, list) or len(said) != count:
        raise fields.wrong(name, f"should be a list of {count} numbers above 0")
    return [Fields({name: one}, fields.origin).number(name) for one in said]


def key_factor(scale: float, head: int) -> float:
    """What keys are multiplied by where scores count `scale`: read back it gives `scale` to the last bit."""
    near = scale * head**0.5
    return next((one for one in (near, math.nextafter(near, 0), math.nextafter(near, math.inf))
                 if one * head**-0.5 == scale), near)  # fmt: skip
