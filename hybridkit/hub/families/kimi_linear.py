"""KimiLinearForCausalLM: Kimi Delta Attention and latent attention without positions; dense FFNs, then experts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.calls import call
from hybridkit.hub.families._experts import each_expert
from hybridkit.hub.families._linear_attention import FULL, LINEAR, layer_types
from hybridkit.hub.families._llama_like import FFN
from hybridkit.hub.family import MOST_LAYERS, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Joined, Layered, Part, ffns, first, mixers, model_options, sizes
from hybridkit.hub.weight_rules import Rule
from hybridkit.model.plan import Plan

DENSE, SPARSE = "dense", "sparse"
MOE, MLP = ".block_sparse_moe.", ".mlp."  # where files hold experts, and dense networks
NEW_RATE = 0.001  # of the experts' correction, which no config says
UNUSED = (  # fields of checkpoints that say again what others say
    "head_dim", "qk_head_dim", "model_max_length", "moe_layer_freq", "rope_theta", "rope_scaling", "rope_parameters",
    "output_router_logits", "num_nextn_predict_layers", "num_hidden_layers", "num_key_value_heads",
)  # fmt: skip
SHARED = {f"shared.{ours}": f"shared_experts.{theirs}" for ours, theirs in FFN.names.items()}
DELTA = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "b": "b_proj", "f_a": "f_a_proj", "f_b": "f_b_proj",
    "g_a": "g_a_proj", "g_b": "g_b_proj", "norm": "o_norm.weight", "out": "o_proj", "dt_bias": "dt_bias",
}  # fmt: skip
LATENT = Part(
    "self_attn",
    {"q": "q_proj", "norm": "kv_a_layernorm", "expand": "kv_b_proj", "out": "o_proj"},
)


class KimiLinear(Layered):
    """Kimi-Linear: `[kda, ffn, [kda, moe(...)]*2, mla(theta=null), moe(...), ...]`."""

    preference = 50
    model_type = "kimi_linear"
    architecture = "KimiLinearForCausalLM"
    defaults = {
        "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
        "num_hidden_layers": 27, "num_attention_heads": 32, "num_shared_experts": 1, "routed_scaling_factor": 2.446,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "num_expert_group": 1,
        "topk_group": 1, "num_experts_per_token": 8, "moe_renormalize": True, "rms_norm_eps": 1e-5, "num_experts": 256,
        "first_k_dense_replace": 1,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        for name, value in (
            ("hidden_act", "silu"), ("attention_dropout", 0.0), ("attention_bias", False), ("q_lora_rank", None),
            ("mla_use_nope", True), ("moe_router_activation_func", "sigmoid"), ("use_grouped_topk", True),
        ):  # fmt: skip
            fields.only(name, value)
        fields.harmless(*UNUSED)
        latent = {
            "head": fields.whole("qk_nope_head_dim", most=1 << 20),
            "rank": fields.whole("kv_lora_rank", most=1 << 20),
            "rope_head": fields.whole("qk_rope_head_dim", most=1 << 20),
            "value_head": fields.whole("v_head_dim", most=1 << 20),
            "theta": None,
        }
        older = _older(fields)
        own = {FULL: call("mla", latent), LINEAR: _delta_call(fields, older)}
        dense = fields.whole("first_k_dense_replace", least=0)
        kinds = fields.each("mlp_layer_types", layers, DENSE, SPARSE)
        kinds = kinds or [DENSE if index < dense else SPARSE for index in range(layers)]
        networks = {DENSE: call("ffn", {"width": fields.whole("intermediate_size")}), SPARSE: _experts(fields)}
        pairs = zip(_mixers(fields, older, layers), kinds, strict=True)
        calls = [one for mixer, kind in pairs for one in (own[mixer], networks[kind])]
        older.finish()
        return Described(calls, {**model_options(fields, width, heads), "ffn": None})

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "kda", "mla"), ffns(plan, "moe", "ffn")
        latent: Any = first(stack, "mla")
        delta: Any = first(stack, "kda")
        moe: Any = first(network, "moe")
        size = latent.shape(plan.dims)
        dense: Any = next((block for block in network if block.name() == "ffn"), None)
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "intermediate_size": dense.width if dense else moe.width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.heads,
            "qk_nope_head_dim": size.head,
            "qk_rope_head_dim": size.rope,
            "v_head_dim": size.value,
            "kv_lora_rank": size.rank,
            "q_lora_rank": size.q_rank,
            "linear_num_heads": delta.heads,
            "linear_head_dim": delta.head,
            "linear_conv_kernel_dim": delta.conv,
            "layer_types": layer_types(stack),
            "mlp_layer_types": [SPARSE if block.name() == "moe" else DENSE for block in network],
            "num_experts": moe.experts,
            "num_experts_per_token": moe.active,
            "moe_intermediate_size": moe.width,
            "num_shared_experts": moe.shared,
            "moe_renormalize": moe.normalize,
            "routed_scaling_factor": moe.factor,
            "num_expert_group": moe.groups,
            "topk_group": moe.active_groups,
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        if block.name() == "mla":
            rank = block.shape(plan.dims).rank  # type: ignore[attr-defined]
            down = Joined(("down.weight", "rope.weight"), ("kv_a_proj_with_mqa.weight",), _cut(rank), _join)
            return LATENT._replace(joined=(down,))
        if block.name() == "kda":
            return _delta(block)
        if block.name() == "moe":
            names = {"router": "gate", "correction": "gate.e_score_correction_bias", **SHARED}
            up, down = each_expert(block.experts)  # type: ignore[attr-defined]
            return Part(MOE.strip("."), names, (_short(up), _short(down)))
        return FFN

    def as_stored(self, rules: list[Rule], names: Collection[str]) -> list[Rule]:
        def stored(name: str) -> str:
            other = name.replace(MLP, MOE)
            return other if name not in names and other in names else name

        return [rule._replace(theirs=tuple(map(stored, rule.theirs))) for rule in rules]


def _older(fields: Fields) -> Fields:
    """The fields of the object `linear_attn_config`, which older files have. Raises UserError."""
    said = fields.take("linear_attn_config", {})
    if not isinstance(said, dict):
        raise fields.wrong("linear_attn_config", "should be an object")
    return Fields(said, f"{fields.origin}: linear_attn_config")


def _delta_call(fields: Fields, older: Fields) -> str:
    whole = lambda name, usual, other, most: older.whole(other, fields.whole(name, usual, most=most), most=most)  # noqa: E731
    said = {
        "heads": whole("linear_num_heads", 32, "num_heads", 1 << 16),
        "head": whole("linear_head_dim", 128, "head_dim", 1 << 20),
        "conv": whole("linear_conv_kernel_dim", 4, "short_conv_kernel_size", 1 << 10),
        "norm_eps": fields.number("rms_norm_eps"),
    }
    return call("kda", said)


def _mixers(fields: Fields, older: Fields, layers: int) -> list[str]:
    """The kind of each layer's mixer. The older lists count from 1; transformers reads both or none."""
    types = fields.each("layer_types", layers, FULL, LINEAR)
    full, delta = older.wholes("full_attn_layers", []), older.wholes("kda_layers", [])
    if types or not (full or delta):
        return types or [FULL if index and index % 4 == 0 else LINEAR for index in range(layers)]
    if sorted(full + delta) != list(range(1, layers + 1)):
        raise older.wrong("full_attn_layers", f"with kda_layers, it should name every layer from 1 to {layers} once")
    return [FULL if index + 1 in full else LINEAR for index in range(layers)]


def _experts(fields: Fields) -> str:
    return call(
        "moe",
        {
            "experts": fields.whole("num_experts", most=1 << 16),
            "active": fields.whole("num_experts_per_token", most=1 << 16),
            "width": fields.whole("moe_intermediate_size"),
            "shared": fields.whole("num_shared_experts", most=1 << 10),
            "route": "sigmoid",
            "normalize": fields.switch("moe_renormalize"),
            "factor": fields.number("routed_scaling_factor"),
            "groups": fields.whole("num_expert_group", most=1 << 16),
            "active_groups": fields.whole("topk_group", most=1 << 16),
            "correction": NEW_RATE,
            "aux": 0.0,
        },
    )


def _cut(rank: int) -> Any:
    return lambda t: list(t[0].tensor_split([rank]))


def _join(t: list[Tensor]) -> list[Tensor]:
    return [torch.cat(t)]


def _short(joined: Joined) -> Joined:
    """Experts' matrices by the names w1, w3 and w2."""
    short = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    names = tuple(
        next(name.replace(long, brief) for long, brief in short.items() if long in name) for name in joined.theirs
    )
    return joined._replace(theirs=names)


def _delta(block: Any) -> Part:
    """The convolution stands in three tensors, and the rates have axes for batch, time and channels."""
    keys, values = block.key_heads * block.head, block.heads * block.value
    conv = Joined(
        ("conv.weight",),
        ("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"),
        lambda t: [torch.cat(t).squeeze(1)],
        lambda t: list(t[0].unsqueeze(1).split((keys, keys, values))),
    )
    rates = Joined(("A_log",), ("A_log",), lambda t: [t[0].flatten()], lambda t: [t[0].view(1, 1, -1, 1)])
    return Part("self_attn", DELTA, (conv, rates))
