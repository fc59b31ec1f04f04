"""Gemma3ForCausalLM, Gemma 3's text model: norms before and after, which multiply by 1 + w; rows times sqrt(width)."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import window
from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.families._sliding import FULL, SLIDING, UNUSED, layer_windows, rope_of_type, window_fields
from hybridkit.hub.family import CannotSay
from hybridkit.hub.fields import Fields
from hybridkit.hub.rope import rope_fields
from hybridkit.model.plan import Plan


class Gemma3Text(LlamaLike):
    """Gemma 3: `[swa(qk_norm=true):1024*5, sa(qk_norm=true,theta=1000000)]*N`, GELU, `model.norm: both`."""

    preference = 30
    model_type = "gemma3_text"
    architecture = "Gemma3ForCausalLM"
    arguments = {"qk_norm": True}
    mixer_norms = {"norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
    ffn_norms = {"norm": "pre_feedforward_layernorm", "post_norm": "post_feedforward_layernorm"}
    one_plus = ("last", "norm", "post_norm", "block.q_norm", "block.k_norm")
    scales_rows = True
    default_head = 256
    common = {
        "hidden_activation": "gelu_pytorch_tanh", "attention_dropout": 0.0, "use_bidirectional_attention": False,
    }  # fmt: skip
    defaults = {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "sliding_window_pattern": 6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
    }  # fmt: skip

    def options(self, fields: Fields) -> dict[str, Any]:
        fields.harmless("_sliding_window_pattern")
        cap = fields.take("final_logit_softcapping")
        return {
            "norm": "both",
            "embedding_scale": float(fields.whole("hidden_size")) ** 0.5,
            "logit_cap": None if cap is None else fields.number("final_logit_softcapping"),
        }

    def ffn(self, fields: Fields) -> dict[str, Any]:
        return {**super().ffn(fields), "act": "gelu_tanh"}

    def attention(self, fields: Fields) -> dict[str, Any]:
        heads = fields.whole("num_attention_heads")
        head = fields.whole("head_dim", max(1, fields.whole("hidden_size") // heads))
        scalar = fields.number("query_pre_attn_scalar")
        said: dict[str, Any] = {} if scalar == head else {"scale": scalar**-0.5}
        fields.only("attn_logit_softcapping", None)  # the class of transformers reads it and does not apply it
        return said | ({"bias": True} if fields.switch("attention_bias") else {})

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        every = fields.whole("sliding_window_pattern")
        return layer_windows(fields, layers, [(index + 1) % every != 0 for index in range(layers)])

    def rope(self, fields: Fields, window: int | None) -> dict[str, Any]:
        return rope_of_type(fields, SLIDING if window else FULL, "rope_local_base_freq")

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        block: Any = attention[0]
        scalar = block.head if block.scale is None else block.scale**-2
        if round(scalar) ** -0.5 != scalar**-0.5:
            raise CannotSay(f"its scale is one over the square root of a whole number, not {block.scale}")
        turns = {FULL if window(one) is None else SLIDING: rope_fields(one) for one in reversed(attention)}
        return {
            **window_fields(attention, unused=UNUSED),
            "rope_parameters": turns,
            "query_pre_attn_scalar": round(scalar),
            "final_logit_softcapping": plan.config.logit_cap,
            "attention_bias": block.bias is True,
        }
