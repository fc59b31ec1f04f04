"""NemotronHForCausalLM: Mamba-2, attention without positions and FFNs without a gate, each a layer of its own."""

from __future__ import annotations

import math
from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.decoding import length_fault, step_fault
from hybridkit.hub.families.mamba2 import EPS, MAMBA, limits
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, ffns, first, mixers, model_options, sizes
from hybridkit.model.plan import Plan

ATTENTION = Part("mixer", {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"})
FFN = Part("mixer", {"up": "up_proj", "down": "down_proj"})
KINDS = {"mamba": "mamba2", "linear_attention": "mamba2", "attention": "sa", "full_attention": "sa", "mlp": "ffn"}
LETTERS = {"M": "mamba", "*": "attention", "-": "mlp"}
EXPERTS = (  # of layers of kind `moe`, which are refused
    "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
    "moe_latent_size", "moe_shared_expert_overlap", "num_experts_per_tok", "routed_scaling_factor", "n_group",
    "topk_group", "norm_topk_prob", "mtp_layers_block_type", "output_router_logits",
)  # fmt: skip
RUNS = (  # how it is computed, and starts
    "chunk_size", "expand", "mamba_ssm_cache_dtype", "num_logits_to_keep", "rescale_prenorm_residual",
    "residual_in_fp32", "time_step_max", "time_step_floor", "use_mamba_kernels",
    "mamba_proj_bias", "num_hidden_layers", "layer_norm_epsilon", "rms_norm_eps", "rope_theta", "attention_head_dim",
)  # fmt: skip
LEAST_STEP = 0.001  # where config.json says none
NO_LEAST = 1e-38  # of step sizes; the class takes the logarithm of it


class NemotronH(Layered):
    """Nemotron-H: `[mamba2, ffn(act=relu2,gated=false), mamba2, sa(theta=null), ffn(act=relu2,gated=false)]*N`."""

    preference = 50
    model_type = "nemotron_h"
    architecture = "NemotronHForCausalLM"
    embedding = "backbone.embeddings.weight"
    last_norm = "backbone.norm_f.weight"
    layer = "backbone.layers"
    mixer_norms = {"norm": "norm"}
    ffn_norms = {"norm": "norm"}
    defaults = {
        "vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 21504, "ssm_state_size": 128, "mamba_num_heads": 128,
        "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4, "use_conv_bias": True, "layer_norm_epsilon": EPS,
    }  # fmt: skip

    def place(self, plan: Plan, index: int) -> int:
        return index

    def layers(self, fields: Fields) -> Described:
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        for name, value in (
            ("mamba_hidden_act", "silu"), ("mlp_hidden_act", "relu2"), ("attention_dropout", 0.0), ("use_bias", False),
            ("hidden_dropout", 0.0), ("attention_bias", False), ("layer_norm_epsilon", EPS), ("sliding_window", None),
            ("num_nextn_predict_layers", 0), ("mamba_proj_bias", False),
        ):  # fmt: skip
            fields.only(name, value)
        fields.harmless(*EXPERTS, *RUNS)
        least = _least_step(fields)
        mamba = {
            "heads": fields.whole("mamba_num_heads", most=1 << 16),
            "head": fields.whole("mamba_head_dim", most=1 << 20),
            "state": fields.whole("ssm_state_size", most=1 << 20),
            "groups": fields.whole("n_groups", most=1 << 16),
            "conv": fields.whole("conv_kernel", most=1 << 10),
            "conv_bias": fields.switch("use_conv_bias"),
            **({"dt_min": least} if least > NO_LEAST else {}),
        }
        attention = {
            "kv_heads": fields.whole("num_key_value_heads", heads, most=1 << 16),
            "head": fields.whole("head_dim", max(1, width // heads), most=1 << 20),
            "theta": None,
        }
        network: dict[str, Any] = {"width": fields.whole("intermediate_size"), "act": "relu2", "gated": False}
        calls = {
            "mamba2": call("mamba2", mamba),
            "sa": call("sa", attention),
            "ffn": call("ffn", {**network, "bias": fields.switch("mlp_bias")}),
        }
        options = {**model_options(fields, width, heads, "layer_norm_epsilon"), "ffn": None}
        return Described([calls[KINDS[kind]] for kind in _kinds(fields)], options)

    def decoding_fault(self, plan: Plan) -> str | None:
        return step_fault(plan, usual=LEAST_STEP) or length_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "sa", "mamba2"), ffns(plan, "ffn")
        mamba: Any = first(stack, "mamba2")
        attention: Any = next((block for block in stack if block.name() == "sa"), None)
        names = {"mamba2": "mamba", "sa": "attention", "ffn": "mlp"}
        if plan.config.norm_eps != EPS:
            raise CannotSay(f"model.norm_eps is {plan.config.norm_eps:g}, not {EPS:g}")
        size = attention or plan.dims
        return {
            **sizes(plan, self.tied(plan), len(plan.entries), "layer_norm_epsilon"),
            "layers_block_type": [names[entry.block.name()] for entry in plan.entries],
            "num_attention_heads": size.heads,
            "num_key_value_heads": attention.kv_heads if attention else size.heads,
            "head_dim": attention.head if attention else max(1, size.width // size.heads),
            "intermediate_size": network[0].width,  # type: ignore[attr-defined]
            "mlp_bias": network[0].bias,  # type: ignore[attr-defined]
            "mamba_num_heads": mamba.heads,
            "mamba_head_dim": mamba.head,
            "ssm_state_size": mamba.state,
            "n_groups": mamba.groups,
            "conv_kernel": mamba.conv,
            "use_conv_bias": mamba.conv_bias,
            "time_step_min": mamba.dt_min or NO_LEAST,
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return {"mamba2": MAMBA, "sa": ATTENTION}.get(block.name(), FFN)


def _least_step(fields: Fields) -> float:
    """The class takes the least step size from `time_step_min`, and reads `time_step_limit` without applying it."""
    low, high = limits(fields, "time_step_limit")
    if low > 0 or high < math.inf:
        raise fields.wrong("time_step_limit", "this class does not apply it: should be 0 and infinity")
    return fields.number("time_step_min", LEAST_STEP)


def _kinds(fields: Fields) -> list[str]:
    """The kind of each layer, from `layers_block_type` or from the letters of the older `hybrid_override_pattern`."""
    letters = fields.take("hybrid_override_pattern")
    name = "layers_block_type" if letters is None else "hybrid_override_pattern"
    fields.harmless("layers_block_type")
    said = [LETTERS.get(one, one) for one in letters] if isinstance(letters, str) else fields.take("layers_block_type")
    if not isinstance(said, list) or not 1 <= len(said) <= MOST_LAYERS:
        raise fields.wrong(name, f"should be a list of 1 to {MOST_LAYERS} layers")
    for kind in said:
        if not isinstance(kind, str) or kind not in KINDS:
            raise fields.wrong(name, f"layers of kind {kind!r} are not known here; known are {', '.join(KINDS)}")
    return said
