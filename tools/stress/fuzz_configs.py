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


def draw(draws: Callable[[random.Random], Raw], rng: random.Random) -> Raw:
    """A config.json of the class that a function of `DRAWS` is named after."""
    raw = {"model_type": draws.__name__, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None} | draws(rng)
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


def base(rng: random.Random, eps: str | None = "rms_norm_eps") -> Raw:
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
    sometimes(raw, rng, tie_word_embeddings=(True, False), hidden_act=("silu",))
    if rng.random() < 0.05:
        raw["num_key_value_heads"] = None
    return raw


def sometimes(raw: Raw, rng: random.Random, **choices: tuple[Any, ...]) -> None:
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
        sometimes(said, rng, original_max_position_embeddings=(8, 16, 64, 400))
    if kind == "llama3":
        said |= {"low_freq_factor": rng.choice((0.5, 1.0, 1)), "high_freq_factor": rng.choice((2.0, 4.0, 16))}
    if kind == "yarn":
        sometimes(
            said, rng, beta_fast=(32, 4.0, 16), beta_slow=(1, 0.5, 2.0), truncate=(True, False),
            attention_factor=(1.0, 1.3, 0.7), mscale=(1.0, 0.7, 2), mscale_all_dim=(1.0, 0.5, 0),
        )  # fmt: skip
    return said


def rope(raw: Raw, rng: random.Random, partial: bool = False) -> None:
    """Positions in today's form or in the older one."""
    said, theta = _stretch(rng), rng.choice((100.0, 1e4, 500000))
    if rng.random() < 0.5:
        raw["rope_parameters"] = {**said, "rope_theta": theta}
        if partial:
            sometimes(raw["rope_parameters"], rng, partial_rotary_factor=(0.5, 0.25, 1.0, 0.75))
        return
    sometimes(raw, rng, rope_theta=(theta,))
    if said["rope_type"] != "default":
        if rng.random() < 0.5:
            said["type"] = said.pop("rope_type")
        raw["rope_scaling"] = said
    if partial:
        sometimes(raw, rng, partial_rotary_factor=(0.5, 0.25, 1.0, 0.75))


def _nested(raw: Raw, rng: random.Random) -> None:
    """Positions by type of layer, in today's form or in the older one."""
    if rng.random() < 0.5:
        raw["rope_parameters"] = {
            kind: {**_stretch(rng), "rope_theta": rng.choice((100.0, 1e4, 1e6))} for kind in (SLIDING, FULL)
        }
        return
    sometimes(raw, rng, rope_theta=(1e3, 1e5), rope_local_base_freq=(1e2, 1e4), rope_scaling=(_stretch(rng),))


def types(raw: Raw, rng: random.Random, *kinds: str) -> None:
    """`layer_types`, one of the kinds for each layer."""
    raw["layer_types"] = [rng.choice(kinds) for _ in range(raw["num_hidden_layers"])]


def _windows(raw: Raw, rng: random.Random) -> None:
    raw["sliding_window"] = rng.choice((1, 2, 5, 7, 13, 39, 40, 64))
    if rng.random() < 0.7:
        types(raw, rng, FULL, SLIDING)


def head(raw: Raw, rng: random.Random, *extra: int) -> None:
    """Sometimes a width of heads of its own."""
    sometimes(raw, rng, head_dim=(4, 6, 10, 16, *extra))


def llama(rng: random.Random) -> Raw:
    """Llama: heads of any size, biases, a share of the head that turns."""
    raw = base(rng)
    head(raw, rng)
    rope(raw, rng, partial=rng.random() < 0.2)
    sometimes(
        raw,
        rng,
        attention_bias=(True, False),
        mlp_bias=(True, False),
        attention_dropout=(0.0, 0),
        pretraining_tp=(1, 2),
    )
    return raw


def mistral(rng: random.Random) -> Raw:
    """Mistral: one window for all layers or none."""
    raw = base(rng)
    head(raw, rng)
    rope(raw, rng)
    sometimes(raw, rng, sliding_window=(1, 3, 5, 17, 40, None), attention_dropout=(0.0,))
    return raw


def ministral(rng: random.Random) -> Raw:
    """Ministral: a window or none by layer."""
    raw = base(rng)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    rope(raw, rng)
    _windows(raw, rng)
    return raw


def qwen3(rng: random.Random) -> Raw:
    """Qwen3: a window or none by layer, switched on or off."""
    raw = ministral(rng)
    sometimes(
        raw, rng, use_sliding_window=(True, True, False), max_window_layers=(0, 1, 2, 28), attention_bias=(True, False)
    )
    return raw


def smollm3(rng: random.Random) -> Raw:
    """SmolLM3: layers without positions."""
    raw = base(rng)
    rope(raw, rng)
    _windows(raw, rng)
    flags = [rng.randint(0, 1) for _ in range(raw["num_hidden_layers"])]
    sometimes(raw, rng, use_sliding_window=(True, False), no_rope_layers=(flags, []), no_rope_layer_interval=(1, 2, 3))
    sometimes(raw, rng, attention_bias=(True, False), mlp_bias=(True, False), max_window_layers=(28,))
    return raw


def olmo3(rng: random.Random) -> Raw:
    """OLMo-3: positions by type of layer."""
    raw = base(rng)
    _windows(raw, rng)
    _nested(raw, rng)
    sometimes(raw, rng, attention_bias=(True, False))
    return raw


def gemma3_text(rng: random.Random) -> Raw:
    """Gemma 3: positions by type of layer, a scale and caps."""
    raw = base(rng)
    raw.pop("hidden_act", None)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    _windows(raw, rng)
    _nested(raw, rng)
    sometimes(
        raw, rng, query_pre_attn_scalar=(4, 9, 168), final_logit_softcapping=(None, 5.0, 30.0),
        sliding_window_pattern=(1, 2, 6),
        attn_logit_softcapping=(None, 2.0, 50.0), attention_bias=(True, False), use_bidirectional_attention=(False,),
        hidden_activation=("gelu_pytorch_tanh",),
    )  # fmt: skip
    return raw


def gpt_oss(rng: random.Random) -> Raw:
    """gpt-oss: experts and sinks."""
    raw = base(rng)
    raw["head_dim"] = rng.choice((4, 6, 10, 16))
    raw |= {"num_local_experts": 4, "num_experts_per_tok": rng.randint(1, 4), "router_aux_loss_coef": 0.0}
    rope(raw, rng)
    _windows(raw, rng)
    sometimes(raw, rng, swiglu_limit=(0.5, 7.0), attention_bias=(True, False), swiglu_alpha=(1.702, 1.0))
    return raw


def granite(rng: random.Random) -> Raw:
    """Granite: multipliers."""
    raw = base(rng)
    head(raw, rng)
    rope(raw, rng)
    sometimes(raw, rng, attention_bias=(True, False), mlp_bias=(True, False))
    multipliers(raw, rng)
    return raw


def multipliers(raw: Raw, rng: random.Random) -> None:
    """Factors on embedding, residual, scores and logits."""
    sometimes(
        raw, rng, embedding_multiplier=(12.0, 0.5, 3), residual_multiplier=(0.22, 1.0),
        attention_multiplier=(0.1, 0.5),
        logits_scaling=(4.0, 0.3, 7),
    )  # fmt: skip


def lfm2(rng: random.Random) -> Raw:
    """LFM2: convolutions and attention, in both forms of the layers."""
    raw = base(rng, "norm_eps")
    raw.pop("hidden_act", None)
    rope(raw, rng)
    types(raw, rng, FULL, "conv")
    raw["block_multiple_of"] = rng.choice((1, 8, 12))
    if rng.random() < 0.3:
        raw.pop("layer_types")
        raw["full_attn_idxs"] = [n for n in range(raw["num_hidden_layers"]) if rng.random() < 0.5]
    sometimes(
        raw, rng, conv_bias=(True, False), conv_L_cache=(1, 2, 3, 4, 5), block_auto_adjust_ff_dim=(True, False),
        block_ffn_dim_multiplier=(1.0, 1.5, 0.7), block_ff_dim=(30, 17), tie_embedding=(True, False),
    )  # fmt: skip
    return raw


DRAWS: dict[str, Callable[[random.Random], Raw]] = {
    draws.__name__: draws
    for draws in (llama, mistral, ministral, qwen3, smollm3, olmo3, gemma3_text, gpt_oss, granite, lfm2)
}
