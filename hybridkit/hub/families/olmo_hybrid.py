"""OlmoHybridForCausalLM: Gated DeltaNet normed before, attention normed behind, each with a SwiGLU normed likewise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.families._linear_attention import FULL, LINEAR, gdn_call, gdn_fields, layer_types
from hybridkit.hub.families._llama_like import ATTENTION, FFN
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Layered, Part, ffns, first, mixers, model_options, sizes, taps
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.hub.weight_rules import Rule
from hybridkit.model.plan import Plan

DELTA = Part(
    "linear_attn",
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "a": "a_proj", "b": "b_proj", "gate": "g_proj", "out": "o_proj",
     "conv": "conv1d", "norm": "o_norm.weight", "A_log": "A_log", "dt_bias": "dt_bias"},
    (taps("conv.weight", "conv1d.weight"),),
)  # fmt: skip
STARTS = ("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor")
PRE, POST = "input_layernorm", "post_attention_layernorm"
STORED = {PRE: "attention_layer_norm", POST: "feedforward_layer_norm"}  # names of norms in files


class OlmoHybrid(Layered):
    """OLMo-Hybrid: `[[gdn(allow_neg_eigval=true), ffn]*3, sa(qk_norm=projection,norm=post), ffn(norm=post)]*N`."""

    preference = 50
    model_type = "olmo_hybrid"
    architecture = "OlmoHybridForCausalLM"
    mixer_norms = {"norm": PRE, "post_norm": POST}
    ffn_norms = {"norm": POST, "post_norm": "post_feedforward_layernorm"}
    defaults = {
        "vocab_size": 100352, "hidden_size": 3840, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 30, "rms_norm_eps": 1e-6, "linear_allow_neg_eigval": True,
        "max_position_embeddings": 65536, "rope_theta": 10000.0,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        kv_heads = fields.whole("num_key_value_heads", heads, most=1 << 16)
        types = fields.each("layer_types", layers, FULL, LINEAR)
        if types is None:  # every fourth and, of fewer than four layers, the last
            types = [FULL if index % 4 == 3 or index == layers - 1 < 3 else LINEAR for index in range(layers)]
        fields.only("hidden_act", "silu")
        fields.only("attention_dropout", 0.0)
        fields.harmless(*STARTS)
        delta = gdn_call(
            fields, heads, 3 * width // (4 * heads), allow_neg_eigval=fields.switch("linear_allow_neg_eigval")
        )
        said: dict[str, Any] = {"qk_norm": "projection", "norm": "post"} | (
            {} if kv_heads == heads else {"kv_heads": kv_heads}
        )
        said |= {"bias": True} if fields.switch("attention_bias") else {}
        rope = {"theta": None} if _still(fields) else rope_arguments(fields)
        inner = fields.whole("intermediate_size")
        pairs = {
            LINEAR: (delta, call("ffn", {"width": inner})),
            FULL: (call("sa", {**said, **rope}), call("ffn", {"width": inner, "norm": "post"})),
        }
        calls = [one for kind in types for one in pairs[kind]]
        return Described(calls, {**model_options(fields, width, heads), "ffn": None})

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "sa", "gdn"), ffns(plan, "ffn")
        attention: Any = first(stack, "sa")
        delta: Any = first(stack, "gdn")
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "intermediate_size": network[0].width,  # type: ignore[attr-defined]
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "attention_bias": attention.bias is True,
            "rope_parameters": {**rope_fields(attention), "rope_theta": attention.theta},
            "layer_types": layer_types(stack),
            "linear_allow_neg_eigval": delta.allow_neg_eigval,
            **gdn_fields(delta),
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return {"sa": ATTENTION, "gdn": DELTA}.get(block.name(), FFN)

    def as_stored(self, rules: list[Rule], names: Collection[str]) -> list[Rule]:
        return [_stored(rule, names) for rule in rules]


def _still(fields: Fields) -> bool:
    """Whether there are no rotary positions: the base is said, and null. A base that is not said is 10000."""
    said = fields.take("rope_parameters")
    fields.harmless("rope_theta")
    if isinstance(said, dict) and "rope_theta" in said:
        return said["rope_theta"] is None
    return fields.is_null("rope_theta")


def _stored(rule: Rule, names: Collection[str]) -> Rule:
    """A rule for files that hold a convolution for each of q, k and v, and other names of norms."""
    name = rule.theirs[0]
    if name in names:
        return rule
    if "conv1d" in name:
        parts = tuple(name.replace("conv1d", f"{one}_conv1d") for one in "qkv")
        join, cut = rule.to_ours, rule.to_theirs
        return Rule(rule.ours, parts, lambda t: join([torch.cat(t)]), lambda t: list(cut(t)[0].chunk(3)))
    for ours, stored in STORED.items():
        if (other := name.replace(ours, stored)) in names:
            return rule._replace(theirs=(other,))
    return rule
