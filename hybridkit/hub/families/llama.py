"""LlamaForCausalLM: full attention in every layer."""

from __future__ import annotations

from typing import Any

from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.stack import CannotSay


class Llama(LlamaLike):
    """Llama: `sa*N`."""

    preference = 10
    model_type = "llama"
    architecture = "LlamaForCausalLM"
    common = {"hidden_act": "silu", "attention_dropout": 0.0, "attention_bias": False, "mlp_bias": False}
    defaults = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    }  # fmt: skip

    def say(self, windows: list[int | None], turned: list[bool]) -> dict[str, Any]:
        if any(windows):
            raise CannotSay("it has no windows")
        if not all(turned):
            raise CannotSay("every layer has rotary positions")
        return {}
