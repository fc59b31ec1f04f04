"""Published models in transformers: class, configuration, names of weights; and each recipe scaled down.

`fields` are what the config.json that was published with the weights says beside the defaults of the config's class.
`small` are the fields, and `cut` the changes of our pattern, that make both sides small. `names` turn our name of a
weight into theirs, one regular expression after another, from `L3.mixer.sa.q.weight`: layer, part, our name.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridkit.model.config import ModelConfig
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan, compile_pattern
from hybridkit.recipe.files import read_recipe

Fields = dict[str, Any]
Names = dict[str, str]
Layout = Callable[[Tensor], Tensor]
VOCAB = 97


@dataclass(frozen=True)
class Published:
    """A published model."""

    name: str  # of the classes in transformers
    parameters: int  # in all
    fields: Fields
    small: Fields
    cut: Mapping[str, str]  # in the pattern: what is written there, and what stands there instead
    model: Mapping[str, Any]  # of our recipe
    names: Names
    one_plus: str | None = None  # a regular expression of our names: theirs are those weights less 1
    options: Fields = field(default_factory=dict)  # of the small model in transformers
    entries: int = 2  # of ours in a layer of theirs
    heads: Mapping[str, int] = field(default_factory=dict)  # of theirs, small: parts that `@n` joins head by head
    layout: Mapping[str, Layout] = field(default_factory=dict)  # of theirs: what is done to our weight


def theirs(name: str, fields: Fields) -> nn.Module:
    """transformers' model, on torch's default device."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    config = getattr(transformers, f"{name}Config")(**fields)
    made: nn.Module = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config)
    return made


def described(name: str) -> Plan:
    """The plan of a published recipe."""
    recipe = read_recipe(f"published/{name}").recipe
    return compile_pattern(recipe.pattern, ModelConfig.of(recipe, recipe.model.vocab or 0))


def scaled_down(name: str, published: Published, vocab: int = VOCAB) -> Model:
    """Our recipe with the pattern cut and a small width, in float64, every weight drawn anew."""
    pattern = read_recipe(f"published/{name}").recipe.pattern
    for said, small in published.cut.items():
        assert re.search(said, pattern), f"{name} does not say {said}"
        pattern = re.sub(said, small, pattern)
    changes = [f"model.{key}={value}" for key, value in (published.model | {"vocab": vocab}).items()]
    recipe = read_recipe(f"published/{name}", [f"pattern={pattern}", *changes]).recipe
    torch.manual_seed(0)
    model = Model(compile_pattern(pattern, ModelConfig.of(recipe, vocab))).double().requires_grad_(False)
    for key, weight in model.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        elif "norm" in key:
            nn.init.uniform_(weight, 0.5, 1.5)
        else:
            nn.init.normal_(weight, std=0.5)
    return model


def copy_to(other: nn.Module, model: Model, published: Published) -> None:
    """Give transformers' model our weights; every one of theirs gets its value, or this fails."""
    own = dict(other.named_parameters(remove_duplicate=False)) | dict(other.named_buffers())
    left, made = {name for name, _ in other.named_parameters()}, dict[str, dict[int, Tensor]]()
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        target, _, part = their_name(name, published).partition("@")
        part, _, rest = part.partition(".")
        shifted = weight - 1 if published.one_plus and re.search(published.one_plus, name) else weight
        made.setdefault(f"{target}.{rest}" if rest else target, {})[int(part or 0)] = shifted
    for target, parts in made.items():
        weight = joined([parts[n] for n in sorted(parts)], _of(published.heads, target) or 1)
        if layout := _of(published.layout, target):
            weight = layout(weight)
        with torch.no_grad():
            own[target].copy_(weight.reshape(own[target].shape))
        left.discard(target)
    assert not left, sorted(left)


def joined(parts: list[Tensor], heads: int) -> Tensor:
    """One weight of several, whose rows stand head by head."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 1)


def _of(said: Mapping[str, Any], target: str) -> Any:
    return next((value for name, value in said.items() if name in target), None)


def their_name(name: str, published: Published) -> str:
    """Their name of a weight."""
    each = published.entries

    def place(found: re.Match[str]) -> str:
        return f"L{int(found[1]) // each}.{'ffn' if int(found[1]) % each else 'mixer'}."

    said = re.sub(r"^layers\.(\d+)\.", place, name)
    for ours, other in published.names.items():
        said = re.sub(ours, other, said)
    return said


LLAMA: Names = {
    r"^embedding\.": "model.embed_tokens.",
    r"^norm\.": "model.norm.",
    r"^head\.": "lm_head.",
    r"\b(swa|sa)\.([qkv])\.": r"self_attn.\2_proj.",
    r"\b(swa|sa)\.out\.": "self_attn.o_proj.",
    r"\b(swa|sa)\.": "self_attn.",
    r"ffn\.ffn\.(gate|up|down)\.": r"mlp.\1_proj.",
    r"mixer\.norm\.": "input_layernorm.",
    r"ffn\.norm\.": "post_attention_layernorm.",
    r"^L(\d+)\.(mixer\.)?": r"model.layers.\1.",
}


def first(names: Names, others: Names) -> Names:
    """`names`, and then what `others` say of the rest."""
    return names | {ours: other for ours, other in others.items() if ours not in names}


_OLMO = {r"mixer\.post_norm\.": "post_attention_layernorm.", r"ffn\.post_norm\.": "post_feedforward_layernorm."}
_GEMMA = {**_OLMO, r"ffn\.norm\.": "pre_feedforward_layernorm."}
_LFM2 = {
    r"^norm\.": "model.embedding_norm.",
    r"\bsa\.out\.": "self_attn.out_proj.",
    r"\bsa\.([qk])_norm\.": r"self_attn.\1_layernorm.",
    r"conv\.input\.": "conv.in_proj.",
    r"conv\.out\.": "conv.out_proj.",
    r"ffn\.ffn\.gate\.": "feed_forward.w1.",
    r"ffn\.ffn\.up\.": "feed_forward.w3.",
    r"ffn\.ffn\.down\.": "feed_forward.w2.",
    r"mixer\.norm\.": "operator_norm.",
    r"ffn\.norm\.": "ffn_norm.",
}
_XLSTM: Names = {
    r"^embedding\.": "backbone.embeddings.",
    r"^norm\.": "backbone.out_norm.",
    r"^head\.": "lm_head.",
    r"mixer\.norm\.": "norm_mlstm.",
    r"ffn\.norm\.": "norm_ffn.",
    r"\bmlstm\.([iof])gate\.": r"mlstm_layer.\1gate_preact.",
    r"\bmlstm\.norm\.": "mlstm_layer.multihead_norm.",
    r"\bmlstm\.out\.": "mlstm_layer.out_proj.",
    r"\bmlstm\.": "mlstm_layer.",
    r"ffn\.ffn\.gate\.": "ffn.proj_up_gate.",
    r"ffn\.ffn\.up\.": "ffn.proj_up.",
    r"ffn\.ffn\.down\.": "ffn.proj_down.",
    r"^L(\d+)\.(mixer\.)?": r"backbone.blocks.\1.",
}
PLAIN = {"rope_type": "default"}
GROUPED = {"num_attention_heads": 32, "num_key_value_heads": 8}
_SMALL = {"hidden_size": 128, "intermediate_size": 96, "vocab_size": VOCAB}
_STRETCHED = {"rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"}
_OLMO3_ROPE = {"sliding_attention": {"rope_type": "default", "rope_theta": 500000.0}, "full_attention": _STRETCHED}
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
_LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_ROPE = {**_LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192}

MODELS = {
    "llama-3.2-1b": Published(
        "Llama",
        1_235_814_400,
        {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, **GROUPED}
        | {"tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_parameters": _LLAMA3_ROPE},
        _SMALL | {"rope_parameters": _LLAMA3_ROPE | {"original_max_position_embeddings": 32}, "num_hidden_layers": 2},
        {"original=8192": "original=32", r"\*16": "*2"},
        {"width": 128, "ffn.width": 96},
        LLAMA,
    ),
    "mistral-7b": Published(
        "Mistral",
        7_241_732_096,
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, **GROUPED}
        | {
            "sliding_window": 4096,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        _SMALL | {"sliding_window": 6, "num_hidden_layers": 2},
        {":4096": ":6", r"\*32": "*2"},
        {"width": 128, "ffn.width": 96},
        LLAMA,
    ),
    "qwen3-1.7b": Published(
        "Qwen3",
        1_720_574_976,
        {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
        | {"rope_parameters": PLAIN | {"rope_theta": 1e6}},
        _SMALL | {"head_dim": 12, "num_hidden_layers": 2},
        {"head=128": "head=12", r"\*28": "*2"},
        {"width": 128, "ffn.width": 96},
        LLAMA,
    ),
    "olmo-3-7b": Published(
        "Olmo3",
        7_298_011_136,
        {"vocab_size": 100278, "rms_norm_eps": 1e-6, "pad_token_id": 100277, "rope_parameters": _OLMO3_ROPE},
        _SMALL
        | {"num_hidden_layers": 4, "sliding_window": 6, "pad_token_id": 0}
        | {"rope_parameters": _OLMO3_ROPE | {"full_attention": _STRETCHED | {"original_max_position_embeddings": 32}}},
        {":4096": ":6", "original=8192": "original=32", r"\*8$": ""},
        {"width": 128, "ffn.width": 96},
        first(_OLMO, LLAMA),
    ),
    "nxai-xlstm-7b": Published(
        "xLSTM",
        6_865_424_896,
        {},
        {"vocab_size": VOCAB, "hidden_size": 128, "num_hidden_layers": 2, "num_heads": 8},
        {r"\*32": "*2"},
        {"width": 128, "ffn.width": 384},
        _XLSTM,
        options={"mode": "inference", "chunkwise_kernel": "chunkwise--native_autograd"}
        | {"sequence_kernel": "native_sequence__native", "step_kernel": "native", "chunk_size": 16}
        | {"autocast_kernel_dtype": "float32", "return_last_states": True, "inference_state_dtype": "float32"},
    ),
    "lfm2-1.2b": Published(
        "Lfm2",
        1_170_340_608,
        {"vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 12288, "num_hidden_layers": 16, **GROUPED}
        | {"layer_types": ["full_attention" if n in (2, 5, 8, 10, 12, 14) else "conv" for n in range(16)]}
        | {"rope_parameters": PLAIN | {"rope_theta": 1e6}, "norm_eps": 1e-5},
        _SMALL | {"intermediate_size": 96, "block_auto_adjust_ff_dim": False},
        {},
        {"width": 128, "ffn.width": 96},
        first(_LFM2, LLAMA),
    ),
    "gemma-3-4b": Published(
        "Gemma3Text",
        3_880_263_168,
        {"vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
        | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024}
        | {"query_pre_attn_scalar": 256, "rope_parameters": _GEMMA3_ROPE},
        _SMALL
        | {"num_hidden_layers": 10, "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16}
        | {"layer_types": (["sliding_attention"] * 5 + ["full_attention"]) + ["sliding_attention"] * 4},
        {":1024": ":6", "head=256": "head=16", r"\]\*5,": "],"},
        {"width": 128, "ffn.width": 96},
        first(_GEMMA, LLAMA),
        one_plus=r"norm\.weight",
    ),
}
