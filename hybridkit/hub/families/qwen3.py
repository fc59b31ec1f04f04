"""Qwen3ForCausalLM: queries and keys normed head by head; windows in some layers."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.families._llama_like import LlamaLike, windows_of
from hybridkit.hub.families._sliding import switched_windows, window_fields
from hybridkit.hub.fields import Fields
from hybridkit.model.plan import Plan


class Qwen3(LlamaLike):
    """Qwen3: `sa(qk_norm=true)*N`."""

    preference = 30
    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    arguments = {"qk_norm": True}
    defaults = {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "sliding_window": 4096, "max_window_layers": 28,
    }  # fmt: skip

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        first = fields.whole("max_window_layers", least=0)
        return switched_windows(fields, layers, [i >= first for i in range(layers)])

    def attention(self, fields: Fields) -> dict[str, Any]:
        return {"bias": True} if fields.switch("attention_bias") else {}

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        said = {"use_sliding_window": any(windows_of(attention)), "max_window_layers": len(attention)}
        return {**window_fields(attention), **said, "attention_bias": attention[0].bias is True}  # type: ignore[attr-defined]
