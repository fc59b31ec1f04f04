"""LlamaForCausalLM: full attention in every layer."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import ffns
from hybridkit.model.plan import Plan


class Llama(LlamaLike):
    """Llama: `sa*N`."""

    preference = 10
    model_type = "llama"
    architecture = "LlamaForCausalLM"
    defaults = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048,
    }  # fmt: skip

    def attention(self, fields: Fields) -> dict[str, Any]:
        return {"bias": True} if fields.switch("attention_bias") else {}

    def ffn(self, fields: Fields) -> dict[str, Any]:
        return {**super().ffn(fields), **({"bias": True} if fields.switch("mlp_bias") else {})}

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        network: Any = ffns(plan, "ffn")[0]
        return {"attention_bias": attention[0].bias is True, "mlp_bias": network.bias}  # type: ignore[attr-defined]
