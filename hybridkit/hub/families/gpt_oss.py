"""GptOssForCausalLM: attention with sinks and biases, windows in every other layer, clipped experts in all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.decoding import window_fault
from hybridkit.hub.families._experts import in_turn, interleaved
from hybridkit.hub.families._llama_like import ATTENTION
from hybridkit.hub.families._sliding import UNUSED, layer_windows, window_fields
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Joined, Layered, Part, ffns, mixers, model_options, sizes
from hybridkit.hub.mxfp4 import packed
from hybridkit.hub.rope import Arguments, rope_arguments, rope_fields
from hybridkit.hub.weight_rules import Rule
from hybridkit.model.plan import Plan

SLOPE = 1.702  # of the clipped unit
MXFP4 = "mxfp4"
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
SINKS = Part("self_attn", {**ATTENTION.names, "sinks": "sinks"})


class GptOss(Layered):
    """gpt-oss: `[swa(sinks=true,bias=true):128, moe(...), sa(sinks=true,bias=true), moe(...)]*N`."""

    preference = 50
    model_type = "gpt_oss"
    architecture = "GptOssForCausalLM"
    defaults = {
        "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
        "sliding_window": 128, "num_local_experts": 128, "num_experts_per_tok": 4, "swiglu_alpha": SLOPE,
        "swiglu_limit": 7.0, "attention_bias": True, "rope_theta": 150000.0,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        said = {
            "kv_heads": fields.whole("num_key_value_heads", heads, most=1 << 16),
            "head": fields.whole("head_dim", most=1 << 20),
            "sinks": True,
            "bias": fields.switch("attention_bias"),
            **_positions(fields),
        }
        fields.only("hidden_act", "silu")
        fields.only("attention_dropout", 0.0)
        fields.only("swiglu_alpha", SLOPE)
        fields.harmless("output_router_logits", "initial_context_length")
        _check_quantization(fields)
        experts = call(
            "moe",
            {
                "experts": fields.whole("num_local_experts", most=1 << 16),
                "active": fields.whole("num_experts_per_tok", fields.take("experts_per_token"), most=1 << 16),
                "width": fields.whole("intermediate_size"),
                "bias": True,
                "clip": fields.number("swiglu_limit"),
                "aux": fields.weight("router_aux_loss_coef", 0.0),
            },
        )
        fields.harmless("experts_per_token")
        windows = layer_windows(fields, layers, [index % 2 == 0 for index in range(layers)])
        calls = [one for size in windows for one in (call("swa" if size else "sa", said, size), experts)]
        return Described(calls, {**model_options(fields, width, heads), "ffn": None})

    def decoding_fault(self, plan: Plan) -> str | None:
        return window_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        attention, network = mixers(plan, "sa", "swa"), ffns(plan, "moe")
        block: Any = attention[0]
        moe: Any = network[0]
        return {
            **sizes(plan, self.tied(plan), len(attention)),
            "intermediate_size": moe.width,
            "num_attention_heads": block.heads,
            "num_key_value_heads": block.kv_heads,
            "head_dim": block.head,
            "attention_bias": block.bias is True,
            "rope_parameters": rope_fields(block),
            "num_local_experts": moe.experts,
            "num_experts_per_tok": moe.active,
            "swiglu_limit": moe.clip or 1e9,
            "router_aux_loss_coef": moe.aux,
            **window_fields(attention, unused=UNUSED),
        }

    def as_stored(self, rules: list[Rule], names: Collection[str]) -> list[Rule]:
        return [packed(rule) if f"{rule.theirs[0]}_blocks" in names else rule for rule in rules]

    def parts(self, plan: Plan, block: Block) -> Part:
        return SINKS if block.is_mixer else _experts(block.experts)  # type: ignore[attr-defined]


def _check_quantization(fields: Fields) -> None:
    """Published checkpoints hold the experts in MXFP4. Raises UserError for other ways of saying them."""
    said = fields.take("quantization_config", {"quant_method": MXFP4})
    if not isinstance(said, dict) or said.get("quant_method") != MXFP4:
        raise fields.wrong("quantization_config", f"should be of quant_method {MXFP4}; no other is read")


def _positions(fields: Fields) -> Arguments:
    """The positions that the config says, or those of gpt-oss with its base."""
    if fields.take("rope_parameters") is None and not fields.take("rope_scaling"):
        fields = Fields({"rope_parameters": YARN, "rope_theta": fields.take("rope_theta")}, fields.origin)
    return rope_arguments(fields)


def _experts(experts: int) -> Part:
    """All experts in one tensor: (E, D, 2 F), gate and up in turn, and (E, F, D); ours (E, 2 F, D) and (E, D, F)."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor.view(experts, -1)

    joined = (
        _one("up", "gate_up_proj", lambda t: interleaved(t).mT, lambda t: in_turn(t.mT)),
        _one("down", "down_proj", lambda t: t.mT, lambda t: t.mT),
        _one("up_bias", "gate_up_proj_bias", lambda t: interleaved(t).flatten(), lambda t: in_turn(rows(t))),
        _one("down_bias", "down_proj_bias", lambda t: t.flatten(), rows),
    )
    return Part("mlp", {"router": "router"}, joined)


def _one(ours: str, theirs: str, here: Any, there: Any) -> Joined:
    return Joined((ours,), (f"experts.{theirs}",), lambda t: [here(t[0])], lambda t: [there(t[0])])
