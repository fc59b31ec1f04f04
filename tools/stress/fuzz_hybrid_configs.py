"""The draws of tools/stress/fuzz_configs.py for classes with recurrent layers and convolutions."""

import random
from collections.abc import Callable

from fuzz_configs import FULL, LINEAR, VOCAB, Raw, base, head, multipliers, rope, sometimes, types


def mamba2(rng: random.Random) -> Raw:
    """Mamba-2: groups, step limits."""
    heads, head, expand = rng.choice((2, 4, 6)), rng.choice((2, 4, 8)), rng.choice((1, 2))
    raw: Raw = {
        "vocab_size": rng.choice(VOCAB), "num_heads": heads, "head_dim": head, "expand": expand,
        "hidden_size": heads * head // expand, "state_size": rng.choice((3, 8, 16)),
        "num_hidden_layers": rng.randint(1, 3),
        "n_groups": rng.choice([n for n in (1, 2, 3) if heads % n == 0]), "chunk_size": rng.choice((7, 16, 256)),
    }  # fmt: skip
    sometimes(
        raw, rng, conv_kernel=(2, 3, 4), use_bias=(True, False), use_conv_bias=(True, False),
        layer_norm_epsilon=(1e-5, 1e-2),
        time_step_limit=([0.0, 1e30], [0.5, 1.2], [0.1, 5e38]), residual_in_fp32=(True, False),
        tie_word_embeddings=(True, False),
    )  # fmt: skip
    return raw


def olmo_hybrid(rng: random.Random) -> Raw:
    """OLMo-Hybrid: Gated DeltaNet and attention."""
    raw = base(rng)
    raw["num_hidden_layers"] = max(2, raw["num_hidden_layers"])
    rope(raw, rng)
    if rng.random() < 0.7:
        types(raw, rng, FULL, LINEAR)
    _linear(raw, rng, raw["num_attention_heads"])
    sometimes(
        raw, rng, rope_parameters=({"rope_theta": None, "rope_type": "default"},), linear_allow_neg_eigval=(True, False)
    )
    sometimes(raw, rng, attention_bias=(True, False))
    return raw


def _linear(raw: Raw, rng: random.Random, heads: int) -> None:
    raw["linear_num_value_heads"] = heads
    raw["linear_num_key_heads"] = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    raw |= {"linear_key_head_dim": rng.choice((4, 6, 8)), "linear_value_head_dim": rng.choice((4, 6, 12))}
    sometimes(raw, rng, linear_conv_kernel_dim=(2, 3, 4))


def qwen3_next(rng: random.Random) -> Raw:
    """Qwen3-Next: Gated DeltaNet, gated attention, experts."""
    raw = base(rng)
    raw["head_dim"] = rng.choice((8, 16))
    raw |= {"num_experts": 4, "num_experts_per_tok": rng.randint(1, 4), "moe_intermediate_size": 8}
    raw |= {"shared_expert_intermediate_size": rng.choice((8, 16)), "router_aux_loss_coef": 0.0}
    rope(raw, rng, partial=True)
    types(raw, rng, FULL, LINEAR)
    _linear(raw, rng, rng.choice((2, 4, 6)))
    dense = [n for n in range(raw["num_hidden_layers"]) if rng.random() < 0.3]
    sometimes(
        raw,
        rng,
        decoder_sparse_step=(1, 2),
        norm_topk_prob=(True, False),
        mlp_only_layers=(dense,),
        full_attention_interval=(1, 2),
    )
    return raw


def nemotron_h(rng: random.Random) -> Raw:
    """Nemotron-H: Mamba-2, attention and FFNs, in both forms of the layers."""
    raw = base(rng, None)
    raw.pop("hidden_act", None)
    layers = [rng.choice(("mamba", "attention", "mlp", LINEAR, FULL)) for _ in range(raw["num_hidden_layers"])]
    letters = "".join({"mamba": "M", LINEAR: "M", "mlp": "-"}.get(one, "*") for one in layers)
    raw |= {"layers_block_type": layers} if rng.random() < 0.7 else {"hybrid_override_pattern": letters}
    heads, groups = rng.choice((2, 4, 6)), rng.choice((1, 2))
    raw |= {
        "mamba_num_heads": heads, "mamba_head_dim": rng.choice((4, 6)), "n_groups": groups,
        "ssm_state_size": rng.choice((4, 8)),
        "chunk_size": rng.choice((7, 16)), "head_dim": rng.choice((4, 6, 10)),
    }  # fmt: skip
    sometimes(
        raw, rng, conv_kernel=(2, 3, 4), use_conv_bias=(True, False), mlp_bias=(True, False),
        time_step_limit=([0.0, 5e38],), time_step_min=(0.001, 0.3),
        layer_norm_epsilon=(1e-5, 1e-2), attention_bias=(True, False), use_bias=(True, False), rope_theta=(1e4,),
    )  # fmt: skip
    return raw


def kimi_linear(rng: random.Random) -> Raw:
    """Kimi-Linear: KDA, MLA and experts."""
    raw = base(rng)
    layers = raw["num_hidden_layers"] = max(2, raw["num_hidden_layers"])
    raw["num_key_value_heads"] = raw["num_attention_heads"]
    experts = rng.choice((4, 8))
    raw |= {
        "num_experts": experts, "num_experts_per_token": rng.randint(1, 4), "moe_intermediate_size": 8,
        "kv_lora_rank": rng.choice((6, 12)), "qk_rope_head_dim": rng.choice((2, 4)), "v_head_dim": rng.choice((4, 6)),
        "qk_nope_head_dim": rng.choice((4, 8)),
    }  # fmt: skip
    full = [n for n in range(layers) if rng.random() < 0.4]
    delta = {
        "num_heads": rng.choice((2, 3)),
        "head_dim": rng.choice((4, 8)),
        "short_conv_kernel_size": rng.choice((2, 4)),
    }
    if rng.random() < 0.5:
        raw["linear_attn_config"] = {**delta, "full_attn_layers": [n + 1 for n in full],
                                     "kda_layers": [n + 1 for n in range(layers) if n not in full]}  # fmt: skip
    else:
        raw |= {"linear_num_heads": delta["num_heads"], "linear_head_dim": delta["head_dim"]}
        raw["layer_types"] = [FULL if n in full else LINEAR for n in range(layers)]
    sometimes(
        raw, rng, num_shared_experts=(1, 2), routed_scaling_factor=(1.0, 0.5), moe_renormalize=(True, False),
        num_expert_group=(1, 2),
        topk_group=(1, 2), first_k_dense_replace=(0, 1, 2), moe_router_activation_func=("sigmoid",),
        mla_use_nope=(True,),
    )  # fmt: skip
    return raw


def _mamba(raw: Raw, rng: random.Random, inner: int) -> None:
    heads = rng.choice([n for n in (1, 2, 4) if inner % n == 0])
    raw |= {"mamba_n_heads": heads, "mamba_d_state": rng.choice((4, 8)), "mamba_chunk_size": rng.choice((7, 16))}
    sometimes(
        raw, rng, mamba_d_head=("auto", inner // heads), mamba_n_groups=tuple(n for n in (1, 2) if heads % n == 0),
        mamba_d_conv=(2, 4), mamba_conv_bias=(True, False), time_step_limit=([0.0, 1e30], [0.5, 1.2]),
    )  # fmt: skip


def falcon_h1(rng: random.Random) -> Raw:
    """Falcon-H1: Mamba-2 beside attention, multipliers."""
    raw = base(rng)
    rope(raw, rng)
    head(raw, rng)
    raw["mamba_d_ssm"] = rng.choice((8, 16, 24))
    _mamba(raw, rng, raw["mamba_d_ssm"])
    names = ("embedding", "lm_head", "key", "attention_in", "attention_out", "ssm_in", "ssm_out")
    sometimes(raw, rng, **{f"{name}_multiplier": (0.4, 1.7) for name in names})
    sometimes(
        raw, rng, ssm_multipliers=([0.5, 0.25, 0.75, 2.0, 1.5],), mlp_multipliers=([0.9, 0.6],),
        mamba_rms_norm=(True, False),
        mamba_norm_before_gate=(True, False), attention_bias=(True, False), mlp_bias=(True, False),
        projectors_bias=(True, False),
    )  # fmt: skip
    if rng.random() < 0.7:
        raw["mamba_proj_bias"] = raw.get("projectors_bias", False)
    return raw


def granitemoehybrid(rng: random.Random) -> Raw:
    """Granite 4 hybrid: Mamba-2 and attention, experts."""
    raw = base(rng)
    rope(raw, rng)
    raw["mamba_expand"] = rng.choice((1, 2))
    _mamba(raw, rng, raw["mamba_expand"] * raw["hidden_size"])
    types(raw, rng, FULL, LINEAR, "mamba", "attention")
    if rng.random() < 0.8:
        raw["rms_norm_eps"] = 1e-5
    raw |= {"num_local_experts": rng.choice((0, 4)), "num_experts_per_tok": rng.randint(1, 4), "intermediate_size": 8}
    raw |= {"shared_intermediate_size": rng.choice((8, 16)), "router_aux_loss_coef": 0.0}
    multipliers(raw, rng)
    sometimes(
        raw, rng, position_embedding_type=("rope", "nope"), mamba_proj_bias=(True, False), attention_bias=(True, False)
    )
    return raw


def recurrent_gemma(rng: random.Random) -> Raw:
    """RecurrentGemma: RG-LRU and attention."""
    raw = base(rng)
    raw.pop("hidden_act", None)
    raw["intermediate_size"] = rng.choice((16, 40))
    raw["hidden_size"] = raw["num_attention_heads"] * rng.choice((8, 16))
    raw["block_types"] = [rng.choice(("recurrent", "attention")) for _ in range(rng.randint(1, 3))]
    sometimes(raw, rng, rope_theta=(100.0, 1e4), partial_rotary_factor=(0.5, 1.0, 0.25))
    sometimes(
        raw, rng, lru_width=(raw["num_attention_heads"] * 6,), attention_window_size=(1, 5,
        13, 40), conv1d_width=(2, 4),
        logits_soft_cap=(30.0, 4.0), attention_bias=(True, False),
    )  # fmt: skip
    return raw


def xlstm(rng: random.Random) -> Raw:
    """xLSTM: the mLSTM."""
    heads = rng.choice((1, 2, 4))
    raw: Raw = {
        "vocab_size": rng.choice(VOCAB), "hidden_size": rng.choice((64, 128, 192)), "num_heads": heads,
        "num_hidden_layers": rng.randint(1, 2),  "autocast_kernel_dtype": "float32",
        "chunk_size": rng.choice((8, 20)),
    }  # fmt: skip
    sometimes(
        raw, rng, ffn_proj_factor=(1.3, 2.667), ffn_round_up_to_multiple_of=(8, 64),
        output_logit_soft_cap=(30.0, 3.0),
        tie_word_embeddings=(True, False), norm_eps=(1e-6, 1e-2), gate_soft_cap=(15.0, 3.0), use_bias=(True, False),
        mode=("inference", "train"), weight_mode=("single", "fused"), eps=(1e-6, 1e-2), add_out_norm=(True, False),
    )  # fmt: skip
    return raw


HYBRIDS: dict[str, Callable[[random.Random], Raw]] = {
    draws.__name__: draws
    for draws in (
        mamba2, olmo_hybrid, qwen3_next, nemotron_h, kimi_linear, falcon_h1, granitemoehybrid, recurrent_gemma, xlstm,
    )
}  # fmt: skip
