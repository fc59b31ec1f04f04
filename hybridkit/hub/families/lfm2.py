"""Lfm2ForCausalLM: gated short convolutions and attention, each with a SwiGLU."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, ffns, first, mixers, model_options, sizes, taps, tie
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

FULL, CONV = "full_attention", "conv"
ATTENTION = Part(
    "self_attn",
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj", "q_norm": "q_layernorm", "k_norm": "k_layernorm"},
)
TAPS = taps("conv.weight", "conv.weight")
CONVOLUTION = Part("conv", {"input": "in_proj", "conv": "conv", "out": "out_proj"}, (TAPS,))
OLD = (  # fields that earlier configs hold beside those that count
    "conv_dim", "conv_dim_out", "conv_use_xavier_init", "block_use_xavier_init", "use_pos_enc", "theta",
    "block_mlp_init_scale", "block_out_init_scale", "block_dim", "block_norm_eps", "num_heads",
)  # fmt: skip
FFN = Part("feed_forward", {"gate": "w1", "up": "w3", "down": "w2"})


class Lfm2(Layered):
    """LFM2: `[conv*2, sa(qk_norm=true)]*N`."""

    preference = 60
    model_type = "lfm2"
    architecture = "Lfm2ForCausalLM"
    last_norm = "model.embedding_norm.weight"
    mixer_norms = {"norm": "operator_norm"}
    ffn_norms = {"norm": "ffn_norm"}
    defaults = {
        "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_theta": 1000000.0, "conv_L_cache": 3, "block_multiple_of": 256, "block_auto_adjust_ff_dim": True,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        kv_heads = fields.whole("num_key_value_heads", heads, most=1 << 16)
        types = fields.each("layer_types", layers, FULL, CONV)
        full = fields.wholes("full_attn_idxs", list(range(layers)))
        types = types or [FULL if index in full else CONV for index in range(layers)]
        fields.harmless(*OLD)
        rope, bias = rope_arguments(fields), fields.switch("conv_bias")
        said: dict[str, Any] = {"qk_norm": True, **({} if kv_heads == heads else {"kv_heads": kv_heads})}
        attention = call("sa", {**said, **rope})
        conv = call("conv", {"kernel_size": fields.whole("conv_L_cache", most=1 << 10), "bias": bias})
        options = {**model_options(fields, width, heads, "norm_eps"), **_tie(fields)}
        fields.only("block_use_swiglu", True)
        return Described(
            [attention if kind == FULL else conv for kind in types], {**options, "ffn": {"width": _inner(fields)}}
        )

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "sa", "conv"), ffns(plan, "ffn")
        attention: Any = first(stack, "sa")
        conv: Any = next((block for block in stack if block.name() == "conv"), None)
        return {
            **sizes(plan, self.tied(plan), len(stack), "norm_eps"),
            "intermediate_size": network[0].width,  # type: ignore[attr-defined]
            "block_auto_adjust_ff_dim": False,
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "rope_parameters": rope_fields(attention),
            "conv_L_cache": conv.kernel_size if conv else 3,
            "conv_bias": bool(conv and conv.bias),
            "layer_types": [FULL if block.name() == "sa" else CONV for block in stack],
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return {"sa": ATTENTION, "conv": CONVOLUTION}.get(block.name(), FFN)


def _tie(fields: Fields) -> dict[str, Any]:
    """As the older `tie_embedding` says, where that is there."""
    tied = fields.switch("tie_embedding", fields.switch("tie_word_embeddings"))
    return tie(Fields({"tie_word_embeddings": tied}, fields.origin))


def _inner(fields: Fields) -> int:
    """The FFN's width: as it is, or two thirds of it, times a factor, rounded up to a multiple."""
    width = fields.whole("intermediate_size" if fields.take("block_ff_dim") is None else "block_ff_dim")
    fields.harmless("intermediate_size")
    multiple, factor = fields.whole("block_multiple_of"), fields.number("block_ffn_dim_multiplier", 1.0)
    if not fields.switch("block_auto_adjust_ff_dim"):
        return width
    return -(-int(min(factor, 1 << 10) * int(2 * width / 3)) // multiple) * multiple
