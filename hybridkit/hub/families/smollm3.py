"""SmolLM3ForCausalLM: some layers without positions, windows in some layers; tied unless the config says otherwise."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.families._llama_like import LlamaLike, windows_of
from hybridkit.hub.families._sliding import switched_windows, window_fields
from hybridkit.hub.fields import Fields
from hybridkit.model.plan import Plan


class SmolLM3(LlamaLike):
    """SmolLM3: `[sa*3, sa(theta=null)]*N`."""

    preference = 40
    model_type = "smollm3"
    architecture = "SmolLM3ForCausalLM"
    common = {"hidden_act": "silu", "attention_dropout": 0.0, "attention_bias": False, "mlp_bias": False}
    defaults = {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 2000000.0,
        "tie_word_embeddings": True, "no_rope_layer_interval": 4,
    }  # fmt: skip

    def turned(self, fields: Fields, layers: int) -> list[bool]:
        every = fields.whole("no_rope_layer_interval")
        said = fields.each("no_rope_layers", layers, 0, 1)
        return [bool(turns) for turns in said] if said else [(i + 1) % every != 0 for i in range(layers)]

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        fields.harmless("max_window_layers")
        window = fields.take("sliding_window") is not None
        return switched_windows(fields, layers, [window and not turns for turns in self.turned(fields, layers)])

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        turned = [int(block.theta is not None) for block in attention]  # type: ignore[attr-defined]
        return {**window_fields(attention), "no_rope_layers": turned, "use_sliding_window": any(windows_of(attention))}
