"""Olmo3ForCausalLM: norms behind attention and FFN, queries and keys normed as a whole, windows in most layers."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import window
from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.families._sliding import FULL, SLIDING, UNUSED, layer_windows, rope_of_type, window_fields
from hybridkit.hub.fields import Fields
from hybridkit.hub.rope import rope_fields
from hybridkit.model.plan import Plan

BASE = 500000.0  # of rotary positions


class Olmo3(LlamaLike):
    """OLMo-3: `[swa(qk_norm=projection):W*3, sa(qk_norm=projection)]*N` with `model.norm: post`."""

    preference = 30
    model_type = "olmo3"
    architecture = "Olmo3ForCausalLM"
    arguments = {"qk_norm": "projection"}
    mixer_norms = {"post_norm": "post_attention_layernorm"}
    ffn_norms = {"post_norm": "post_feedforward_layernorm"}
    defaults = {
        "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": BASE, "sliding_window": 4096,
        "max_position_embeddings": 2048,
    }  # fmt: skip

    def options(self, fields: Fields) -> dict[str, Any]:
        return {"norm": "post"}

    def attention(self, fields: Fields) -> dict[str, Any]:
        return {"bias": True} if fields.switch("attention_bias") else {}

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        return layer_windows(fields, layers, [(index + 1) % 4 != 0 for index in range(layers)])

    def rope(self, fields: Fields, window: int | None) -> dict[str, Any]:
        return rope_of_type(fields, SLIDING if window else FULL, BASE)

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        turns = {FULL if window(block) is None else SLIDING: rope_fields(block) for block in reversed(attention)}
        said = {"rope_parameters": turns, "attention_bias": attention[0].bias is True}  # type: ignore[attr-defined]
        return {**window_fields(attention, unused=UNUSED), **said}
