"""GraniteMoeHybridForCausalLM, Granite 4: Mamba-2 and attention, experts beside a shared network, constant factors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.calls import call, own_scale
from hybridkit.hub.decoding import length_fault, step_fault
from hybridkit.hub.families._llama_like import ATTENTION
from hybridkit.hub.families._mamba import mamba_arguments, mamba_fields
from hybridkit.hub.families.mamba2 import EPS, MAMBA
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Joined, Layered, Part, ffns, first, mixers, model_options, sizes
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

MAMBA_LAYER, ATTENTION_LAYER = "linear_attention", "full_attention"
KINDS = {"mamba": MAMBA_LAYER, MAMBA_LAYER: MAMBA_LAYER, "attention": ATTENTION_LAYER, ATTENTION_LAYER: ATTENTION_LAYER}


def _up(gate: str, up: str, theirs: str) -> Joined:
    """Gate (F, D) and up (F, D) in one tensor (2 F, D)."""

    def joined(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors)]

    return Joined((gate, up), (theirs,), lambda tensors: [*tensors[0].chunk(2)], joined)


SHARED = "shared_mlp.input_linear.weight"
NETWORK = Part("", {"down": "shared_mlp.output_linear"}, (_up("gate.weight", "up.weight", SHARED),))
EXPERTS = Part(
    "",
    {
        "router": "block_sparse_moe.router.layer",
        "up": "block_sparse_moe.input_linear.weight",
        "down": "block_sparse_moe.output_linear.weight",
        "shared.down": "shared_mlp.output_linear",
    },
    (_up("shared.gate.weight", "shared.up.weight", SHARED),),
)


class GraniteMoeHybrid(Layered):
    """Granite 4: `[mamba2*5, sa(theta=null,scale=...), mamba2*4]*N` with `moe(..., shared=...)` or one network."""

    preference = 60
    model_type = "granitemoehybrid"
    architecture = "GraniteMoeHybridForCausalLM"
    scales_rows = True
    defaults = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "rms_norm_eps": 1e-6, "num_local_experts": 8, "num_experts_per_tok": 2,
        "shared_intermediate_size": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256,
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "rope_theta": 10000.0,
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        kinds = fields.each("layer_types", layers, *KINDS) or fields.each("layers_block_type", layers, *KINDS)
        kinds = [KINDS[kind] for kind in kinds or [MAMBA_LAYER] * layers]
        fields.harmless("layers_block_type", "mamba_chunk_size", "output_router_logits", "init_method")
        for name, value in (("hidden_act", "silu"), ("attention_dropout", 0.0), ("normalization_function", "rmsnorm")):
            fields.only(name, value)
        if MAMBA_LAYER in kinds:
            fields.only("rms_norm_eps", EPS)
        calls = {MAMBA_LAYER: call("mamba2", mamba_arguments(fields, width * fields.whole("mamba_expand")))}
        calls[ATTENTION_LAYER] = call("sa", _attention(fields, heads, width))
        options = {
            **model_options(fields, width, heads),
            "embedding_scale": fields.number("embedding_multiplier", 1.0),
            "residual_scale": fields.number("residual_multiplier", 1.0),
            "logit_scale": 1 / fields.number("logits_scaling", 1.0),
            "ffn": _network(fields),
        }
        return Described([calls[kind] for kind in kinds], options)

    def decoding_fault(self, plan: Plan) -> str | None:
        return step_fault(plan) or length_fault(plan)

    def config(self, plan: Plan) -> dict[str, Any]:
        stack = mixers(plan, "mamba2", "sa")
        network: Any = ffns(plan, "ffn", "moe")[0]
        mamba: Any = first(stack, "mamba2")
        attention: Any = next((block for block in stack if block.name() == "sa"), None)
        size = attention or plan.dims
        scale = (attention.scale or attention.head**-0.5) if attention else 1.0
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "layer_types": [MAMBA_LAYER if block.name() == "mamba2" else ATTENTION_LAYER for block in stack],
            "num_attention_heads": size.heads,
            "num_key_value_heads": attention.kv_heads if attention else size.heads,
            "attention_multiplier": scale,
            "attention_bias": bool(attention and attention.bias),
            "position_embedding_type": "rope" if attention and attention.theta else None,
            "rope_parameters": rope_fields(attention or mamba),
            "embedding_multiplier": plan.config.row_scale,
            "residual_multiplier": plan.config.residual_scale,
            "logits_scaling": 1 / plan.config.logit_scale,
            **_network_fields(network),
            **mamba_fields(mamba),
            "mamba_expand": _expand(mamba, plan.dims.width),
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        return {"mamba2": MAMBA._replace(module="mamba"), "sa": ATTENTION, "moe": EXPERTS}.get(block.name(), NETWORK)


def _expand(block: Any, width: int) -> int:
    expand, rest = divmod(block.heads * block.head, width)
    if rest:
        raise CannotSay(f"{block.heads} heads of {block.head} are no whole multiple of the width {width}")
    return expand


def _attention(fields: Fields, heads: int, width: int) -> dict[str, Any]:
    fields.only("position_embedding_type", None, "nope", "rope")
    rope, head = rope_arguments(fields), fields.whole("head_dim", max(1, width // heads), most=1 << 20)
    return {
        "kv_heads": fields.whole("num_key_value_heads", heads, most=1 << 16),
        **({} if head == width / heads else {"head": head}),
        **(rope if fields.take("position_embedding_type") == "rope" else {"theta": None}),
        **own_scale(fields.number("attention_multiplier", 1.0), head),
        "bias": fields.switch("attention_bias"),
    }


def _network(fields: Fields) -> dict[str, Any]:
    """What stands behind every mixer, as `model.ffn` says it."""
    shared, experts = fields.whole("shared_intermediate_size"), fields.whole("num_local_experts", least=0)
    fields.harmless("intermediate_size", "num_experts_per_tok", "router_aux_loss_coef")
    if not experts:
        return {"width": shared}
    width = fields.whole("intermediate_size")
    if shared % width:
        raise fields.wrong("shared_intermediate_size", f"should be a multiple of intermediate_size, {width}")
    sizes = {"experts": experts, "active": fields.whole("num_experts_per_tok"), "width": width}
    aux = fields.weight("router_aux_loss_coef", 0.001)
    return {"block": "moe", **sizes, "shared": shared // width, "aux": aux}


def _network_fields(block: Any) -> dict[str, Any]:
    if block.name() == "ffn":
        return {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": block.width}
    if not block.shared:
        raise CannotSay("there is no shared expert: moe(..., shared=1)")
    return {
        "num_local_experts": block.experts,
        "num_experts_per_tok": block.active,
        "intermediate_size": block.width,
        "shared_intermediate_size": block.shared * block.width,
        "router_aux_loss_coef": block.aux,
    }
