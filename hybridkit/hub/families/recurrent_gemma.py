"""RecurrentGemmaForCausalLM: RG-LRU and local attention (arXiv 2404.07839); norms multiply by 1 + w."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridkit.block import Block
from hybridkit.hub.calls import call, window
from hybridkit.hub.family import MOST_LAYERS, CannotSay, Described
from hybridkit.hub.fields import Fields
from hybridkit.hub.layered import Joined, Layered, Part, ffns, first, mixers, model_options, sizes, taps
from hybridkit.hub.rope import rope_arguments, rope_fields
from hybridkit.model.plan import Plan

ATTENTION = Part("temporal_block", {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"})
FFN = Part("mlp_block", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})
RECURRENT, LOCAL = "recurrent", "attention"
KINDS = {RECURRENT: RECURRENT, "linear_attention": RECURRENT, LOCAL: LOCAL, "sliding_attention": LOCAL}


class RecurrentGemma(Layered):
    """RecurrentGemma: `[rglru*2, swa(kv_heads=1,rope=.5,bias=out):2048]*N`, GELU, tied, logits capped."""

    preference = 60
    model_type = "recurrent_gemma"
    architecture = "RecurrentGemmaForCausalLM"
    reads_padding = "its convolution"
    last_norm = "model.final_norm.weight"
    mixer_norms = {"norm": "temporal_pre_norm"}
    ffn_norms = {"norm": "channel_pre_norm"}
    one_plus = ("last", "norm")
    scales_rows = True
    defaults = {
        "num_hidden_layers": 26, "vocab_size": 256000, "hidden_size": 2560, "intermediate_size": 7680,
        "num_attention_heads": 10, "attention_window_size": 2048, "conv1d_width": 4, "logits_soft_cap": 30.0,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "partial_rotary_factor": 0.5, "rope_theta": 10000.0,
        "block_types": [RECURRENT, RECURRENT, LOCAL],
    }  # fmt: skip

    def layers(self, fields: Fields) -> Described:
        layers = fields.whole("num_hidden_layers", most=MOST_LAYERS)
        width, heads = fields.whole("hidden_size", most=1 << 20), fields.whole("num_attention_heads", most=1 << 16)
        inner = fields.whole("intermediate_size", least=2)
        if inner % 2:
            raise fields.wrong("intermediate_size", "should be even: each of gate and up has half of it")
        fields.only("hidden_activation", "gelu_pytorch_tanh")
        fields.only("attention_dropout", 0.0)
        fields.only("embeddings_scale_by_sqrt_dim", True)
        head = max(1, width // heads)
        fields.only("head_dim", head)
        fields.harmless("w_init_variance_scale", "final_w_init_variance_scale", "layers_block_type", "layer_types")
        calls = {
            RECURRENT: call("rglru", _recurrent(fields, width)),
            LOCAL: call(
                "swa",
                {
                    "kv_heads": fields.whole("num_key_value_heads", heads, most=1 << 16),
                    **({} if head == width / heads else {"head": head}),
                    **rope_arguments(fields, shares=True),
                    "bias": True if fields.switch("attention_bias") else "out",
                },
                fields.whole("attention_window_size", most=1 << 40),
            ),
        }
        options = {
            **model_options(fields, width, heads),
            "embedding_scale": rows(width),
            "logit_cap": fields.number("logits_soft_cap"),
            "ffn": {"width": inner // 2, "act": "gelu_tanh", "bias": True},
        }
        kinds = _kinds(fields)
        return Described([calls[kinds[index % len(kinds)]] for index in range(layers)], options)

    def config(self, plan: Plan) -> dict[str, Any]:
        stack, network = mixers(plan, "rglru", "swa"), ffns(plan, "ffn")
        recurrent: Any = first(stack, "rglru")
        local: Any = first(stack, "swa")
        if local.scaling:
            raise CannotSay(f"scaling={local.scaling}: its positions are not stretched")
        return {
            **sizes(plan, self.tied(plan), len(stack)),
            "block_types": [RECURRENT if block.name() == "rglru" else LOCAL for block in stack],
            "num_attention_heads": local.heads,
            "num_key_value_heads": local.kv_heads,
            "attention_window_size": window(local),
            "attention_bias": local.bias is True,
            "rope_parameters": {"partial_rotary_factor": 1.0, **rope_fields(local)},
            "lru_width": recurrent.width,
            "conv1d_width": recurrent.conv,
            "logits_soft_cap": plan.config.logit_cap,
            "intermediate_size": 2 * network[0].width,  # type: ignore[attr-defined]
        }

    def parts(self, plan: Plan, block: Block) -> Part:
        if block.name() == "rglru":
            return recurrent_part(block.heads)  # type: ignore[attr-defined]
        return ATTENTION if block.is_mixer else FFN


def rows(width: int) -> float:
    """What rows of the embedding count, as the class has it: sqrt(width) in bf16."""
    return float(torch.tensor(width**0.5, dtype=torch.bfloat16))


def recurrent_part(heads: int) -> Part:
    """The recurrent block, whose gates have a bias of every head apart."""

    def by_head(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0].unflatten(0, (heads, -1))]

    def flat(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0].flatten()]

    same = lambda tensors: tensors  # noqa: E731
    gates = {"igate": "rg_lru.input_gate", "rgate": "rg_lru.recurrent_gate"}
    joined = [taps("conv.weight", "conv_1d.weight")]
    for ours, theirs in gates.items():
        joined.append(Joined((f"{ours}.weight",), (f"{theirs}_weight",), same, same))
        joined.append(Joined((f"{ours}.bias",), (f"{theirs}_bias",), flat, by_head))
    names = {name: name for name in ("linear_x", "linear_y", "linear_out")}
    return Part("temporal_block", {**names, "conv": "conv_1d", "decay": "rg_lru.recurrent_param"}, tuple(joined))


def _recurrent(fields: Fields, width: int) -> dict[str, Any]:
    own = fields.whole("lru_width", width, most=1 << 20)
    return {**({} if own == width else {"width": own}), "conv": fields.whole("conv1d_width", most=1 << 10)}


def _kinds(fields: Fields) -> list[str]:
    """The kinds of layers, which repeat."""
    said = fields.take("block_types")
    if not isinstance(said, list) or not 1 <= len(said) <= MOST_LAYERS:
        raise fields.wrong("block_types", f"should be a list of 1 to {MOST_LAYERS} kinds")
    for kind in said:
        if not isinstance(kind, str) or kind not in KINDS:
            raise fields.wrong("block_types", f"{kind!r} is none of {', '.join(KINDS)}")
    return [KINDS[kind] for kind in said]
