"""Qwen3ForCausalLM: queries and keys normed head by head; windows in some layers."""

from __future__ import annotations

from typing import Any

from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.families._sliding import layer_types, layer_windows
from hybridkit.hub.fields import Fields
from hybridkit.hub.stack import CannotSay


class Qwen3(LlamaLike):
    """Qwen3: `sa(qk_norm=true)*N`."""

    preference = 30
    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    qk_norm = True
    common = {"hidden_act": "silu", "attention_dropout": 0.0, "attention_bias": False}
    defaults = {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "sliding_window": 4096, "max_window_layers": 28,
    }  # fmt: skip

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        used, first = fields.switch("use_sliding_window"), fields.whole("max_window_layers", least=0)
        fields.harmless("sliding_window", "layer_types")
        return layer_windows(fields, layers, [i >= first for i in range(layers)]) if used else [None] * layers

    def say(self, windows: list[int | None], turned: list[bool]) -> dict[str, Any]:
        if not all(turned):
            raise CannotSay("every layer has rotary positions")
        return {**layer_types(windows), "use_sliding_window": any(windows), "max_window_layers": len(windows)}
