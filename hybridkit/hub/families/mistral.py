"""MistralForCausalLM: one sliding window in every layer, or full attention in every layer.

transformers ignores `layer_types` of a Mistral, and vLLM follows it: mixed layers are a Ministral's.
"""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import window
from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.fields import Fields
from hybridkit.model.plan import Plan


class Mistral(LlamaLike):
    """Mistral: `swa:W*N`."""

    preference = 20
    model_type = "mistral"
    architecture = "MistralForCausalLM"
    defaults = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "sliding_window": 4096,
    }  # fmt: skip

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        none = fields.take("sliding_window") is None
        return [None if none else fields.whole("sliding_window", most=1 << 40)] * layers

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        return {"sliding_window": window(attention[0])}
