"""Qwen3NextForCausalLM: Gated DeltaNet and gated attention, experts beside a shared one; norms multiply by 1 + w."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.families._experts import each_expert
from hybridkit.hub.families._linear_attention import FULL, LINEAR, gdn_call, gdn_fields, layer_types
from hybridkit.hub.families._llama_like import ATTENTION, FFN
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Joined, Layered, Part, ffns, first, mixers, model_options, sizes, taps
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

SHARED = {f"shared.{ours}": f"shared_expert.{theirs}" for ours, theirs in FFN.names.items()}


class Qwen3Next(Layered):
    """Qwen3-Next: `[[gdn, moe(...)]*3, sa(gate=true,qk_norm=true,rope=.25), moe(...)]*N`."""

    preference = 50
    model_type = "qwen3_next"
    architecture = "Qwen3NextForCausalLM"
    one_plus = ("last", "norm", "block.q_norm", "block.k_norm")
    defaults = {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512, "decoder_sparse_step": 1,
        "norm_topk_prob": True, "full_attention_interval": 4,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        types = fields.each("layer_types", layers, FULL, LINEAR)
        every = fields.whole("full_attention_interval")
        types = types or [LINEAR if (index + 1) % every else FULL for index in range(layers)]
        for name, value in (("hidden_act", "silu"), ("attention_dropout", 0.0), ("attention_bias", False)):
            fields.only(name, value)
        fields.harmless("output_router_logits")
        attention = {
            "kv_heads": fields.whole("num_key_value_heads", most=1 << 16),
            "head": fields.whole("head_dim", most=1 << 20),
            "qk_norm": True,
            "gate": True,
            **rope_arguments(fields, shares=True),
        }
        own = {
            FULL: call("sa", attention),
            LINEAR: gdn_call(fields, norm_eps=fields.number("rms_norm_eps"), start="qwen"),
        }
        networks = _networks(fields, layers)
        calls = [one for kind, network in zip(types, networks, strict=True) for one in (own[kind], network)]
        return Described(calls, {**model_options(fields, width, heads), "ffn": None})

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "sa", "gdn"), ffns(plan, "moe", "ffn")
        attention: Any = first(stack, "sa")
        moe: Any = first(network, "moe")
        dense: Any = next((block for block in network if block.name() == "ffn"), None)
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "intermediate_size": dense.width if dense else moe.width,
            "num_attention_heads": attention.heads,
            "num_key_value_heads": attention.kv_heads,
            "head_dim": attention.head,
            "rope_parameters": {"partial_rotary_factor": 1.0, **rope_fields(attention)},
            "layer_types": layer_types(stack),
            **gdn_fields(first(stack, "gdn")),
            "num_experts": moe.experts,
            "num_experts_per_tok": moe.active,
            "moe_intermediate_size": moe.width,
            "shared_expert_intermediate_size": moe.shared * moe.width,
            "norm_topk_prob": moe.normalize,
            "router_aux_loss_coef": moe.aux,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [index for index, block in enumerate(network) if block.name() == "ffn"],
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        kinds = {"sa": _attention, "gdn": _delta, "moe": _moe}
        return kinds[block.name()](block) if block.name() in kinds else FFN


def _networks(fields: Fields, layers: int) -> list[str]:
    """The feed-forward network of every layer."""
    width, shared = fields.whole("moe_intermediate_size"), fields.whole("shared_expert_intermediate_size")
    if shared % width:
        raise fields.wrong("shared_expert_intermediate_size", f"should be a multiple of moe_intermediate_size, {width}")
    moe = {
        "experts": fields.whole("num_experts", most=1 << 16),
        "active": fields.whole("num_experts_per_tok", most=1 << 16),
        "width": width,
        "shared": shared // width,
        "normalize": fields.switch("norm_topk_prob"),
        "shared_gate": True,
        "aux": fields.weight("router_aux_loss_coef", 0.001),
    }
    dense, every = fields.wholes("mlp_only_layers", []), fields.whole("decoder_sparse_step")
    inner = fields.whole("intermediate_size")
    sparse = [index not in dense and (index + 1) % every == 0 for index in range(layers)]
    return [call("moe", moe) if yes else call("ffn", {"width": inner}) for yes in sparse]


def _attention(block: Any) -> Part:
    """The gate's rows stand behind the query's, head by head."""
    heads = block.heads

    def cut(t: list[Tensor]) -> list[Tensor]:
        return [half.flatten(0, 1) for half in t[0].unflatten(0, (heads, -1)).chunk(2, 1)]

    def join(t: list[Tensor]) -> list[Tensor]:
        return [torch.cat([half.unflatten(0, (heads, -1)) for half in t], 1).flatten(0, 1)]

    return Part(
        ATTENTION.module, ATTENTION.names, (Joined(("q.weight", "gate.weight"), ("q_proj.weight",), cut, join),)
    )


def _delta(block: Any) -> Part:
    """Rows of all projections stand together for each key head: q, k, v and gate; and b and a."""
    keys, each = block.key_heads, block.heads // block.key_heads
    wide = (block.head, block.head, each * block.value, each * block.value)
    grouped = (
        Joined(("q.weight", "k.weight", "v.weight", "gate.weight"), ("in_proj_qkvz.weight",), *_groups(keys, wide)),
        Joined(("b.weight", "a.weight"), ("in_proj_ba.weight",), *_groups(keys, (each, each))),
        taps("conv.weight", "conv1d.weight"),
    )
    names = {"A_log": "A_log", "dt_bias": "dt_bias", "norm": "norm.weight", "out": "out_proj"}
    return Part("linear_attn", names, grouped)


def _groups(groups: int, sections: tuple[int, ...]) -> tuple[Any, Any]:
    """Rows that stand together for each group, to a tensor a section, and back."""

    def cut(t: list[Tensor]) -> list[Tensor]:
        return [part.flatten(0, 1) for part in t[0].unflatten(0, (groups, -1)).split(sections, 1)]

    def join(t: list[Tensor]) -> list[Tensor]:
        return [torch.cat([part.unflatten(0, (groups, -1)) for part in t], 1).flatten(0, 1)]

    return cut, join


def _moe(block: Any) -> Part:
    return Part("mlp", {"router": "gate", "shared_gate": "shared_expert_gate", **SHARED}, each_expert(block.experts))
