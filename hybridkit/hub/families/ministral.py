"""MinistralForCausalLM: layers with one sliding window and layers with full attention, in any order."""

from __future__ import annotations

from typing import Any

from hybridkit.block import Block
from hybridkit.hub.families._llama_like import LlamaLike
from hybridkit.hub.families._sliding import layer_windows, window_fields
from hybridkit.hub.families.mistral import Mistral
from hybridkit.hub.fields import Fields
from hybridkit.model.plan import Plan


class Ministral(LlamaLike):
    """Ministral: `[swa:W*2, sa]*N`."""

    preference = 30
    model_type = "ministral"
    architecture = "MinistralForCausalLM"
    defaults = Mistral.defaults

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        return layer_windows(fields, layers, [fields.take("sliding_window") is not None] * layers)

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        return window_fields(attention)
