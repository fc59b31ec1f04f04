"""GraniteForCausalLM: a Llama with factors on embedding, scores, residual sums and logits."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.calls import own_scale
from hybridkit.hub.families.llama import Llama
from hybridkit.hub.fields import Fields
from hybridkit.model.plan import Plan


class Granite(Llama):
    """Granite: `sa(scale=...)*N` with `model.embedding_scale`, `residual_scale` and `logit_scale`."""

    preference = 15
    model_type = "granite"
    architecture = "GraniteForCausalLM"
    scales_rows = True

    def options(self, fields: Fields) -> dict[str, Any]:
        return {
            "embedding_scale": fields.number("embedding_multiplier", 1.0),
            "residual_scale": fields.number("residual_multiplier", 1.0),
            "logit_scale": 1 / fields.number("logits_scaling", 1.0),
        }

    def attention(self, fields: Fields) -> dict[str, Any]:
        heads = fields.whole("num_attention_heads")
        head = fields.whole("head_dim", max(1, fields.whole("hidden_size") // heads))
        return {**super().attention(fields), **own_scale(fields.number("attention_multiplier", 1.0), head)}

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        block: Any = attention[0]
        return {
            **super().say(plan, attention),
            "embedding_multiplier": plan.config.row_scale,
            "residual_multiplier": plan.config.residual_scale,
            "logits_scaling": 1 / plan.config.logit_scale,
            "attention_multiplier": block.scale or block.head**-0.5,
        }
