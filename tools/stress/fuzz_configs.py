"""Draws of tools/stress/fuzz_checkpoints.py: a config.json of each class, with fields changed, added and dropped."""

import random
from collections.abc import Callable
from typing import Any

from transformers import CONFIG_MAPPING

Raw = dict[str, Any]
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
VOCAB = (257, 259, 264, 300)  # rows; the tokenizer has 257
STRANGE = (None, True, False, 0, 1, 2, 7, 0.5, 2.5, "silu", "gelu", "auto", [], {})
LIKE: dict[type, tuple[Any, ...]] = {  # values of the type of another
    int: (0, 1, 2, 3, 4, 5, 8, 12),
    float: (0.0, 0.25, 0.5, 1.0, 2.5),
    str: ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu2", "auto"),
}
KEPT = ("vocab_size", "hidden_size", "model_type")  # never dropped, so that models stay small


def draw(name: str, rng: random.Random) -> Raw:
    """A config.json."""
    raw = {"model_type": name, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None} | DRAWS[name](rng)
    for _ in range(rng.choice((0, 0, 1, 2))):
        _change(raw, rng)
    return raw


def _change(raw: Raw, rng: random.Random) -> None:
    """One field dropped, or at another value; also one that the config does not say."""
    known = CONFIG_MAPPING[raw["model_type"]]().to_dict()
    older = ("rope_theta", "rope_scaling", "partial_rotary_factor", "sliding_window")
    name = rng.choice([*raw, *raw, *known, *older])
    value, kind = raw.get(name, known.get(name)), rng.random()
    if name in KEPT:
        return
    if kind < 0.2 and not (type(value) is int and value > 1):  # a size of its own would be large
        raw.pop(name, None)
    elif kind < 0.85 and (type(value) in LIKE or isinstance(value, bool | list)):
        if isinstance(value, list):
            raw[name] = rng.choice((value[1:], value[::-1], value + value[:1], None))
        else:
            raw[name] = not value if isinstance(value, bool) else rng.choice(LIKE[type(value)])
    else:
        raw[name] = rng.choice(STRANGE)


def _base(rng: random.Random, eps: str | None = "rms_norm_eps") -> Raw:
    """Sizes that all classes have."""
    heads = rng.choice((1, 2, 3, 4, 6))
    raw: Raw = {
        "vocab_size": rng.choice(VOCAB),
        "hidden_size": heads * rng.choice((4, 6, 8, 10)),
        "intermediate_size": rng.choice((8, 20, 33, 48)),
        "num_hidden_layers": rng.randint(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([n for n in range(1, heads + 1) if heads % n == 0]),
        "max_position_embeddings": rng.choice((16, 64, 4096)),
    }
    if eps:
        raw[eps] = rng.choice((1e-6, 1e-5, 1e-2, 0.3))
    _sometimes(raw, rng, tie_word_embeddings=(True, False), hidden_act=("silu",))
    if rng.random() < 0.05:
        raw["num_key_value_heads"] = None
    return raw


def _sometimes(raw: Raw, rng: random.Random, **choices: tuple[Any, ...]) -> None:
    """Some of the fields, each at one of its values."""
    for name, values in choices.items():
        if rng.random() < 0.4:
            raw[name] = rng.choice(values)


def _stretch(rng: random.Random) -> Raw:
    """Rotary positions of some kind."""
    kind = rng.choice(
        ("default", "default", "linear", "llama3", "yarn", "yarn", "dynamic" if rng.random() < 0.1 else "yarn")
    )
    said: Raw = {"rope_type": kind}
    if kind != "default":
        said["factor"] = rng.choice((2.0, 3.5, 8, 32.0, 1.0, 1.2))
    if kind in ("llama3", "yarn"):
        _sometimes(said, rng, original_max_position_embeddings=(8, 16, 64, 400))
    if kind == "llama3":
        said |= {"low_freq_factor": rng.choice((0.5, 1.0, 1)), "high_freq_factor": rng.choice((2.0, 4.0, 16))}
    if kind == "yarn":
        _sometimes(
            said, rng, beta_fast=(32, 4.0, 16), beta_slow=(1, 0.5, 2.0), truncate=(True, False),
            attention_factor=(1.0, 1.3, 0.7), mscale=(1.0, 0.7, 2), mscale_all_dim=(1.0, 0.5, 0),
        )  # fmt: skip
    return said


def _rope(raw: Raw, rng: random.Random, partial: bool = False) -> None:
    """Positions in today's form or in the older one."""
    said, theta = _stretch(rng), rng.choice((100.0, 1e4, 500000))
    if rng.random() < 0.5:
        raw["rope_parameters"] = {**said, "rope_theta": theta}
        if partial:
            _sometimes(raw["rope_parameters"], rng, partial_rotary_factor=(0.5, 0.25, 1.0, 0.75))
        return
    _sometimes(raw, rng, rope_theta=(theta,))
    if said["rope_type"] != "default":
        if rng.random() < 0.5:
            said["type"] = said.pop("rope_type")
        raw["rope_scaling"] = said
    if partial:
        _sometimes(raw, rng, partial_rotary_factor=(0.5, 0.25, 1.0, 0.75))


def _nested(raw: Raw, rng: random.Random) -> None:
    """Positions by type of layer, in today's form or in the older one."""
    if rng.random() < 0.5:
        raw["rope_parameters"] = {
            kind: {**_stretch(rng), "rope_theta": rng.choice((100.0, 1e4, 1e6))} for kind in (SLIDING, FULL)
        }
        return
    _sometimes(raw, rng, rope_theta=(1e3, 1e5), rope_local_base_freq=(1e2, 1e4), rope_scaling=(_stretch(rng),))


def _types(raw: Raw, rng: random.Random, *kinds: str) -> None:
    raw["layer_types"] = [rng.choice(kinds) for _ in range(raw["num_hidden_layers"])]


def _windows(raw: Raw, rng: random.Random) -> None:
    raw["sliding_window"] = rng.choice((1, 2, 5, 7, 13, 39, 40, 64))
    if rng.random() < 0.7:
        _types(raw, rng, FULL, SLIDING)


def _head(raw: Raw, rng: random.Random, *extra: int) -> None:
    _sometimes(raw, rng, head_dim=(4, 6, 10, 16, *extra))


def llama(rng: random.Random) -> Raw:
    raw = _base(rng)
    _head(raw, rng)
    _rope(raw, rng, partial=rng.random() < 0.2)
    _sometimes(
        raw,
        rng,
        attention_bias=(True, False),
        mlp_bias=(True, False),
        attention_dropout=(0.0, 0),
        pretraining_tp=(1, 2),
    )
    return raw


def mistral(rng: random.Random) -> Raw:
    raw = _base(rng)
    _head(raw, rng)
    _rope(raw, rng)
    _sometimes(raw, rng, sliding_window=(1, 3, 5, 17, 40, None), attention_dropout=(0.0,))
    return raw


def ministral(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    _rope(raw, rng)
    _windows(raw, rng)
    return raw


def qwen3(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    _rope(raw, rng)
    _windows(raw, rng)
    _sometimes(
        raw, rng, use_sliding_window=(True, True, False), max_window_layers=(0, 1, 2, 28), attention_bias=(True, False)
    )
    return raw


def smollm3(rng: random.Random) -> Raw:
    raw = _base(rng)
    _rope(raw, rng)
    _windows(raw, rng)
    flags = [rng.randint(0, 1) for _ in range(raw["num_hidden_layers"])]
    _sometimes(raw, rng, use_sliding_window=(True, False), no_rope_layers=(flags, []), no_rope_layer_interval=(1, 2, 3))
    _sometimes(raw, rng, attention_bias=(True, False), mlp_bias=(True, False), max_window_layers=(28,))
    return raw


def olmo3(rng: random.Random) -> Raw:
    raw = _base(rng)
    _windows(raw, rng)
    _nested(raw, rng)
    _sometimes(raw, rng, attention_bias=(True, False))
    return raw


def gemma3_text(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw.pop("hidden_act", None)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    _windows(raw, rng)
    _nested(raw, rng)
    _sometimes(
        raw, rng, query_pre_attn_scalar=(4, 9, 168), final_logit_softcapping=(None, 5.0, 30.0), sliding_window_pattern=(1, 2, 6),
        attn_logit_softcapping=(None, 2.0, 50.0), attention_bias=(True, False), use_bidirectional_attention=(False,),
        hidden_activation=("gelu_pytorch_tanh",),
    )  # fmt: skip
    return raw


def gpt_oss(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    raw |= {"num_local_experts": 4, "num_experts_per_tok": rng.randint(1, 4), "router_aux_loss_coef": 0.0}
    _rope(raw, rng)
    _windows(raw, rng)
    _sometimes(raw, rng, swiglu_limit=(0.5, 7.0), attention_bias=(True, False), swiglu_alpha=(1.702, 1.0))
    return raw


def granite(rng: random.Random) -> Raw:
    raw = _base(rng)
    _head(raw, rng)
    _rope(raw, rng)
    _sometimes(raw, rng, attention_bias=(True, False), mlp_bias=(True, False))
    _multipliers(raw, rng)
    return raw


def _multipliers(raw: Raw, rng: random.Random) -> None:
    _sometimes(
        raw, rng, embedding_multiplier=(12.0, 0.5, 3), residual_multiplier=(0.22, 1.0), attention_multiplier=(0.1, 0.5),
        logits_scaling=(4.0, 0.3, 7),
    )  # fmt: skip


def lfm2(rng: random.Random) -> Raw:
    raw = _base(rng, "norm_eps")
    raw.pop("hidden_act", None)
    _rope(raw, rng)
    _types(raw, rng, FULL, "conv")
    raw["block_multiple_of"] = rng.choice((1, 8, 12))
    if rng.random() < 0.3:
        raw.pop("layer_types")
        raw["full_attn_idxs"] = [n for n in range(raw["num_hidden_layers"]) if rng.random() < 0.5]
    _sometimes(
        raw, rng, conv_bias=(True, False), conv_L_cache=(1, 2, 3, 4, 5), block_auto_adjust_ff_dim=(True, False),
        block_ffn_dim_multiplier=(1.0, 1.5, 0.7), block_ff_dim=(30, 17), tie_embedding=(True, False),
    )  # fmt: skip
    return raw


def mamba2(rng: random.Random) -> Raw:
    heads, head, expand = rng.choice((2, 4, 6)), rng.choice((2, 4, 8)), rng.choice((1, 2))
    raw: Raw = {
        "vocab_size": rng.choice(VOCAB), "num_heads": heads, "head_dim": head, "expand": expand,
        "hidden_size": heads * head // expand, "state_size": rng.choice((3, 8, 16)), "num_hidden_layers": rng.randint(1, 3),
        "n_groups": rng.choice([n for n in (1, 2, 3) if heads % n == 0]), "chunk_size": rng.choice((7, 16, 256)),
    }  # fmt: skip
    _sometimes(
        raw, rng, conv_kernel=(2, 3, 4), use_bias=(True, False), use_conv_bias=(True, False), layer_norm_epsilon=(1e-5, 1e-2),
        time_step_limit=([0.0, 1e30], [0.5, 1.2], [0.1, 5e38]), residual_in_fp32=(True, False), tie_word_embeddings=(True, False),
    )  # fmt: skip
    return raw


def olmo_hybrid(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw["num_hidden_layers"] = max(2, raw["num_hidden_layers"])
    _rope(raw, rng)
    if rng.random() < 0.7:
        _types(raw, rng, FULL, LINEAR)
    _linear(raw, rng, raw["num_attention_heads"])
    _sometimes(
        raw, rng, rope_parameters=({"rope_theta": None, "rope_type": "default"},), linear_allow_neg_eigval=(True, False)
    )
    _sometimes(raw, rng, attention_bias=(True, False))
    return raw


def _linear(raw: Raw, rng: random.Random, heads: int) -> None:
    raw["linear_num_value_heads"] = heads
    raw["linear_num_key_heads"] = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
    raw |= {"linear_key_head_dim": rng.choice((4, 6, 8)), "linear_value_head_dim": rng.choice((4, 6, 12))}
    _sometimes(raw, rng, linear_conv_kernel_dim=(2, 3, 4))


def qwen3_next(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw["head_dim"] = rng.choice((8, 16))
    raw |= {"num_experts": 4, "num_experts_per_tok": rng.randint(1, 4), "moe_intermediate_size": 8}
    raw |= {"shared_expert_intermediate_size": rng.choice((8, 16)), "router_aux_loss_coef": 0.0}
    _rope(raw, rng, partial=True)
    _types(raw, rng, FULL, LINEAR)
    _linear(raw, rng, rng.choice((2, 4, 6)))
    dense = [n for n in range(raw["num_hidden_layers"]) if rng.random() < 0.3]
    _sometimes(
        raw,
        rng,
        decoder_sparse_step=(1, 2),
        norm_topk_prob=(True, False),
        mlp_only_layers=(dense,),
        full_attention_interval=(1, 2),
    )
    return raw


def nemotron_h(rng: random.Random) -> Raw:
    raw = _base(rng, None)
    raw.pop("hidden_act", None)
    layers = [rng.choice(("mamba", "attention", "mlp", LINEAR, FULL)) for _ in range(raw["num_hidden_layers"])]
    letters = "".join({"mamba": "M", LINEAR: "M", "mlp": "-"}.get(one, "*") for one in layers)
    raw |= {"layers_block_type": layers} if rng.random() < 0.7 else {"hybrid_override_pattern": letters}
    heads, groups = rng.choice((2, 4, 6)), rng.choice((1, 2))
    raw |= {
        "mamba_num_heads": heads, "mamba_head_dim": rng.choice((4, 6)), "n_groups": groups, "ssm_state_size": rng.choice((4, 8)),
        "chunk_size": rng.choice((7, 16)), "head_dim": rng.choice((4, 6, 10)),
    }  # fmt: skip
    _sometimes(
        raw, rng, conv_kernel=(2, 3, 4), use_conv_bias=(True, False), mlp_bias=(True, False), time_step_limit=([0.0, 1e30], [0.5, 1.2]),
        layer_norm_epsilon=(1e-5, 1e-2), attention_bias=(True, False), use_bias=(True, False), rope_theta=(1e4,),
    )  # fmt: skip
    return raw


def kimi_linear(rng: random.Random) -> Raw:
    raw = _base(rng)
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
    _sometimes(
        raw, rng, num_shared_experts=(1, 2), routed_scaling_factor=(1.0, 0.5), moe_renormalize=(True, False), num_expert_group=(1, 2),
        topk_group=(1, 2), first_k_dense_replace=(0, 1, 2), moe_router_activation_func=("sigmoid",), mla_use_nope=(True,),
    )  # fmt: skip
    return raw


def _mamba(raw: Raw, rng: random.Random, inner: int) -> None:
    heads = rng.choice([n for n in (1, 2, 4) if inner % n == 0])
    raw |= {"mamba_n_heads": heads, "mamba_d_state": rng.choice((4, 8)), "mamba_chunk_size": rng.choice((7, 16))}
    _sometimes(
        raw, rng, mamba_d_head=("auto", inner // heads), mamba_n_groups=tuple(n for n in (1, 2) if heads % n == 0),
        mamba_d_conv=(2, 4), mamba_conv_bias=(True, False), time_step_limit=([0.0, 1e30], [0.5, 1.2]),
    )  # fmt: skip


def falcon_h1(rng: random.Random) -> Raw:
    raw = _base(rng)
    _rope(raw, rng)
    _head(raw, rng)
    raw["mamba_d_ssm"] = rng.choice((8, 16, 24))
    _mamba(raw, rng, raw["mamba_d_ssm"])
    names = ("embedding", "lm_head", "key", "attention_in", "attention_out", "ssm_in", "ssm_out")
    _sometimes(raw, rng, **{f"{name}_multiplier": (0.4, 1.7) for name in names})
    _sometimes(
        raw, rng, ssm_multipliers=([0.5, 0.25, 0.75, 2.0, 1.5],), mlp_multipliers=([0.9, 0.6],), mamba_rms_norm=(True, False),
        mamba_norm_before_gate=(True, False), attention_bias=(True, False), mlp_bias=(True, False), projectors_bias=(True, False),
    )  # fmt: skip
    if rng.random() < 0.7:
        raw["mamba_proj_bias"] = raw.get("projectors_bias", False)
    return raw


def granitemoehybrid(rng: random.Random) -> Raw:
    raw = _base(rng)
    _rope(raw, rng)
    raw["mamba_expand"] = rng.choice((1, 2))
    _mamba(raw, rng, raw["mamba_expand"] * raw["hidden_size"])
    _types(raw, rng, FULL, LINEAR, "mamba", "attention")
    if rng.random() < 0.8:
        raw["rms_norm_eps"] = 1e-5
    raw |= {"num_local_experts": rng.choice((0, 4)), "num_experts_per_tok": rng.randint(1, 4), "intermediate_size": 8}
    raw |= {"shared_intermediate_size": rng.choice((8, 16)), "router_aux_loss_coef": 0.0}
    _multipliers(raw, rng)
    _sometimes(
        raw, rng, position_embedding_type=("rope", "nope"), mamba_proj_bias=(True, False), attention_bias=(True, False)
    )
    return raw


def recurrent_gemma(rng: random.Random) -> Raw:
    raw = _base(rng)
    raw.pop("hidden_act", None)
    raw["intermediate_size"] = rng.choice((16, 40))
    raw["hidden_size"] = raw["num_attention_heads"] * rng.choice((8, 16))
    raw["block_types"] = [rng.choice(("recurrent", "attention")) for _ in range(rng.randint(1, 3))]
    _sometimes(raw, rng, rope_theta=(100.0, 1e4), partial_rotary_factor=(0.5, 1.0, 0.25))
    _sometimes(
        raw, rng, lru_width=(raw["num_attention_heads"] * 6,), attention_window_size=(1, 5, 13, 40), conv1d_width=(2, 4),
        logits_soft_cap=(30.0, 4.0), attention_bias=(True, False),
    )  # fmt: skip
    return raw


def xlstm(rng: random.Random) -> Raw:
    heads = rng.choice((1, 2, 4))
    raw: Raw = {
        "vocab_size": rng.choice(VOCAB), "hidden_size": rng.choice((64, 128, 192)), "num_heads": heads,
        "num_hidden_layers": rng.randint(1, 2),  "autocast_kernel_dtype": "float32", "chunk_size": rng.choice((8, 20)),
    }  # fmt: skip
    _sometimes(
        raw, rng, ffn_proj_factor=(1.3, 2.667), ffn_round_up_to_multiple_of=(8, 64), output_logit_soft_cap=(30.0, 3.0),
        tie_word_embeddings=(True, False), norm_eps=(1e-6, 1e-2), gate_soft_cap=(15.0, 3.0), use_bias=(True, False),
        mode=("inference", "train"), weight_mode=("single", "fused"), eps=(1e-6, 1e-2), add_out_norm=(True, False),
    )  # fmt: skip
    return raw


DRAWS: dict[str, Callable[[random.Random], Raw]] = {
    draws.__name__: draws
    for draws in (
        llama, mistral, ministral, qwen3, smollm3, olmo3, gemma3_text, gpt_oss, granite, lfm2, mamba2, olmo_hybrid, qwen3_next,
        nemotron_h, kimi_linear, falcon_h1, granitemoehybrid, recurrent_gemma, xlstm,
    )
}  # fmt: skip
