"""What Llama and its relatives share: attention with RoPE, SwiGLU, RMSNorm before both; only names differ from ours.

A family is a subclass that says which layers have a window or no positions, and how its config says so. What is
written is read back and compared with the plan, so that `config` need not look for what it cannot say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hybridkit.block import Block
from hybridkit.hub.calls import call, window
from hybridkit.hub.decoding import window_fault
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, ffns, mixers, model_options, sizes
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

ATTENTION = Part(
    "self_attn",
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj", "q_norm": "q_norm", "k_norm": "k_norm"},
)
FFN = Part("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})


class LlamaLike(Layered):
    """A stack of attention and gated feed-forward networks."""

    arguments: ClassVar[Mapping[str, Any]] = {}  # of attention, in every layer
    common: ClassVar[Mapping[str, Any]] = {"hidden_act": "silu", "attention_dropout": 0.0}  # fields with one value
    default_head: ClassVar[int | None] = None  # width of a head where the config says none; None: width over heads

    def windows(self, fields: Fields, layers: int) -> list[int | None]:
        """The window of each layer."""
        return [None] * layers

    def turned(self, fields: Fields, layers: int) -> list[bool]:
        """Whether each layer has rotary positions."""
        return [True] * layers

    def rope(self, fields: Fields, window: int | None) -> dict[str, Any]:
        """The arguments that say the positions of a layer with this window."""
        return rope_arguments(fields)

    def options(self, fields: Fields) -> dict[str, Any]:
        """Further options of the model."""
        return {}

    def ffn(self, fields: Fields) -> dict[str, Any]:
        """The feed-forward network, as `model.ffn` says it."""
        return {"width": fields.whole("intermediate_size")}

    def attention(self, fields: Fields) -> dict[str, Any]:
        """Further arguments of attention, the same in every layer."""
        return {}

    def say(self, plan: Plan, attention: list[Block]) -> dict[str, Any]:
        """The fields of this class alone. Raises CannotSay."""
        return {}

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        kv_heads = fields.whole("num_key_value_heads", heads, most=1 << 16)
        head = fields.whole("head_dim", self.default_head or max(1, width // heads), most=1 << 20)
        shared = {
            **({} if kv_heads == heads else {"kv_heads": kv_heads}),
            **({} if head == width / heads else {"head": head}),
        }
        shared |= {**self.arguments, **self.attention(fields)}
        for name, value in self.common.items():
            fields.only(name, value)
        calls = []
        for size, turns in zip(self.windows(fields, layers), self.turned(fields, layers), strict=True):
            rope = self.rope(fields, size)
            calls.append(call("swa" if size else "sa", {**shared, **(rope if turns else {"theta": None})}, size))
        options = {**model_options(fields, width, heads), **self.options(fields), "ffn": self.ffn(fields)}
        return Described(calls, options)

    def decoding_fault(self, plan: Plan) -> str | None:
        return window_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        attention, network = mixers(plan, "sa", "swa"), ffns(plan, "ffn")
        block = attention[0]
        turning = next((one for one in attention if one.theta), block)  # type: ignore[attr-defined]
        return {
            **sizes(plan, self.tied(plan), len(attention)),
            "intermediate_size": network[0].width,  # type: ignore[attr-defined]
            "num_attention_heads": block.heads,  # type: ignore[attr-defined]
            "num_key_value_heads": block.kv_heads,  # type: ignore[attr-defined]
            "head_dim": block.head,  # type: ignore[attr-defined]
            "rope_parameters": rope_fields(turning),
            **self.common,
            **self.say(plan, attention),
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return ATTENTION if block.is_mixer else FFN


def windows_of(blocks: list[Block]) -> list[int | None]:
    """The window of each layer outside training."""
    return [window(block) for block in blocks]
