"""Published models with experts and recurrent mixers in transformers, as in published.py."""

from published import LLAMA, PLAIN, VOCAB, Names, Published, first
from torch import Tensor

EAGER = {"experts_implementation": "eager"}  # transformers' other forms know no float64


def _interleaved(up: Tensor) -> Tensor:
    """Gate and up row by row in turn, and inputs first: (E, 2 F, D) to (E, D, 2 F)."""
    return up.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2).transpose(1, 2)


def _interleaved_bias(bias: Tensor) -> Tensor:
    """(E 2 F) with gate before up to one where they take turns."""
    return bias.view(EXPERTS, 2, -1).transpose(1, 2)


EXPERTS = 32  # of gpt-oss
_GPT_OSS = first(
    {
        r"moe\.up$": "mlp.experts.gate_up_proj",
        r"moe\.up_bias$": "mlp.experts.gate_up_proj_bias",
        r"moe\.down$": "mlp.experts.down_proj",
        r"moe\.down_bias$": "mlp.experts.down_proj_bias",
        r"moe\.router": "mlp.router",
        r"(ffn\.)mlp": "mlp",
    },
    LLAMA,
)
_MAMBA = {r"mamba2\.conv\.": "mamba2.conv1d."}
_NEMOTRON: Names = {
    r"^embedding\.": "model.embeddings.",
    r"^norm\.": "model.norm_f.",
    r"^head\.": "lm_head.",
    **_MAMBA,
    r"^L(\d+)\.mixer\.": r"model.layers.\1.",
    r"\bmamba2\.": "mixer.",
    r"\bffn\.(up|down)\.": r"mixer.\1_proj.",
    r"\bsa\.([qkv])\.": r"mixer.\1_proj.",
    r"\bsa\.out\.": "mixer.o_proj.",
}
_GRANITE = first(
    {
        **_MAMBA,
        r"mamba2\.": "mamba.",
        r"ffn\.moe\.up$": "block_sparse_moe.experts.gate_up_proj",
        r"ffn\.moe\.down$": "block_sparse_moe.experts.down_proj",
        r"ffn\.moe\.router\.": "block_sparse_moe.router.",
        r"ffn\.moe\.shared\.gate\.": "shared_mlp.input_linear@0.",
        r"ffn\.moe\.shared\.up\.": "shared_mlp.input_linear@1.",
        r"ffn\.moe\.shared\.down\.": "shared_mlp.output_linear.",
    },
    LLAMA,
)
_GRIFFIN: Names = {
    r"^embedding\.": "model.embed_tokens.",
    r"^norm\.": "model.final_norm.",
    r"mixer\.norm\.": "temporal_pre_norm.",
    r"ffn\.norm\.": "channel_pre_norm.",
    r"ffn\.ffn\.(gate|up|down)\.": r"mlp_block.\1_proj.",
    r"swa\.([qkv])\.": r"temporal_block.\1_proj.",
    r"swa\.out\.": "temporal_block.o_proj.",
    r"rglru\.conv\.": "temporal_block.conv_1d.",
    r"rglru\.decay": "temporal_block.rg_lru.recurrent_param",
    r"rglru\.igate\.": "temporal_block.rg_lru.input_gate_",
    r"rglru\.rgate\.": "temporal_block.rg_lru.recurrent_gate_",
    r"rglru\.": "temporal_block.",
    r"^L(\d+)\.(mixer\.)?": r"model.layers.\1.",
}
_EXPERTS = {
    r"ffn\.moe\.up$": "mlp.experts.gate_up_proj",
    r"ffn\.moe\.down$": "mlp.experts.down_proj",
    r"ffn\.moe\.router\.": "mlp.gate.",
}
_QWEN_NEXT = first(
    {
        **_EXPERTS,
        r"ffn\.moe\.shared\.(gate|up|down)\.": r"mlp.shared_expert.\1_proj.",
        r"ffn\.moe\.shared_gate\.": "mlp.shared_expert_gate.",
        r"gdn\.q\.": "linear_attn.in_proj_qkvz@0.",
        r"gdn\.k\.": "linear_attn.in_proj_qkvz@1.",
        r"gdn\.v\.": "linear_attn.in_proj_qkvz@2.",
        r"gdn\.gate\.": "linear_attn.in_proj_qkvz@3.",
        r"gdn\.b\.": "linear_attn.in_proj_ba@0.",
        r"gdn\.a\.": "linear_attn.in_proj_ba@1.",
        r"gdn\.conv\.": "linear_attn.conv1d.",
        r"gdn\.norm$": "linear_attn.norm.weight",
        r"gdn\.out\.": "linear_attn.out_proj.",
        r"gdn\.": "linear_attn.",
        r"\bsa\.q\.": "self_attn.q_proj@0.",
        r"\bsa\.gate\.": "self_attn.q_proj@1.",
    },
    LLAMA,
)
_OLMO_HYBRID = first(
    {
        r"gdn\.gate\.": "linear_attn.g_proj.",
        r"gdn\.out\.": "linear_attn.o_proj.",
        r"gdn\.([qkvab])\.": r"linear_attn.\1_proj.",
        r"gdn\.conv\.": "linear_attn.conv1d.",
        r"gdn\.norm$": "linear_attn.o_norm.weight",
        r"gdn\.": "linear_attn.",
        r"mixer\.post_norm\.": "post_attention_layernorm.",
        r"ffn\.post_norm\.": "post_feedforward_layernorm.",
    },
    LLAMA,
)
_KIMI = first(
    {
        **_EXPERTS,
        r"ffn\.moe\.correction": "mlp.gate.e_score_correction_bias",
        r"ffn\.moe\.shared\.(gate|up|down)\.": r"mlp.shared_experts.\1_proj.",
        r"kda\.([qkvb])\.": r"self_attn.\1_proj.",
        r"kda\.conv\.": "self_attn.conv1d.",
        r"kda\.(f_[ab])\.": r"self_attn.forget_gate.\1_proj.",
        r"kda\.(g_[ab])\.": r"self_attn.\1_proj.",
        r"kda\.(A_log|dt_bias)": r"self_attn.forget_gate.\1",
        r"kda\.norm$": "self_attn.o_norm.weight",
        r"kda\.out\.": "self_attn.o_proj.",
        r"mla\.q\.": "self_attn.q_proj.",
        r"mla\.down\.": "self_attn.kv_a_proj_with_mqa@0.",
        r"mla\.rope\.": "self_attn.kv_a_proj_with_mqa@1.",
        r"mla\.norm\.": "self_attn.kv_a_layernorm.",
        r"mla\.expand\.": "self_attn.kv_b_proj.",
        r"mla\.out\.": "self_attn.o_proj.",
    },
    LLAMA,
)
_FALCON = first(
    {
        **_MAMBA,
        r"^norm\.": "model.final_layernorm.",
        r"mixer\.[01]\.": "mixer.",
        r"mamba2\.": "mamba.",
        r"ffn\.ffn\.(gate|up|down)\.": r"feed_forward.\1_proj.",
        r"ffn\.norm\.": "pre_ff_layernorm.",
    },
    LLAMA,
)
_YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
_GPT_OSS_ROPE = {**_YARN, "rope_theta": 150000.0, "original_max_position_embeddings": 4096}
_LETTERS = {"M": "linear_attention", "-": "mlp", "*": "full_attention"}
_FULL = (4, 8, 12, 16, 20, 24, 27)  # layers of Kimi Linear, from 1


def _kimi(full: tuple[int, ...], layers: int) -> dict[str, list[str]]:
    return {"layer_types": ["full_attention" if n + 1 in full else "linear_attention" for n in range(layers)]}


HYBRIDS = {
    "gpt-oss-20b": Published(
        "GptOss",
        20_914_757_184,
        {"vocab_size": 201088, "num_hidden_layers": 24, "num_local_experts": 32, "rope_parameters": _GPT_OSS_ROPE},
        {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 16, "head_dim": 4, "num_hidden_layers": 2}
        | {"sliding_window": 6, "rope_parameters": _GPT_OSS_ROPE | {"original_max_position_embeddings": 32}},
        {":128": ":6", "original=4096": "original=32", "head=64": "head=4", r"\*12": ""},
        {"width": 128, "ffn.width": 16},
        _GPT_OSS,
        options=EAGER,
        layout={"gate_up_proj_bias": _interleaved_bias, "gate_up_proj": _interleaved}
        | {"down_proj_bias": lambda bias: bias, "down_proj": lambda down: down.mT},
    ),
    "nemotron-h-8b": Published(
        "NemotronH",
        8_100_852_736,
        {"layers_block_type": [_LETTERS[letter] for letter in "M-M-M-M*-" + "M-M-M-M-M*-" * 3 + "M-" * 5]},
        {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 96, "head_dim": 4, "mamba_num_heads": 16}
        | {"mamba_head_dim": 4, "chunk_size": 16, "layers_block_type": [_LETTERS[x] for x in "M-M*-M-M*-M-"]},
        {"heads=128": "heads=16", "head=64": "head=4", "head=128": "head=4", "21504": "96", r"\]\*\d": "]"},
        {"width": 128},
        _NEMOTRON,
        entries=1,
    ),
    "recurrentgemma-2b": Published(
        "RecurrentGemma",
        2_682_862_080,
        {"num_key_value_heads": 1, "intermediate_size": 15360},
        {"vocab_size": VOCAB, "hidden_size": 80, "intermediate_size": 128, "num_hidden_layers": 5}
        | {"attention_window_size": 6},
        {":2048": ":6", "head=256": "head=8", r"\]\*8": "]"},
        {"width": 80, "ffn.width": 64, "embedding_scale": 8.9375},  # sqrt(80) in bf16
        _GRIFFIN,
        one_plus=r"norm\.weight",
    ),
    "granite-4-h-tiny": Published(
        "GraniteMoeHybrid",
        6_939_037_248,
        {"vocab_size": 100352, "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 12}
        | {"num_key_value_heads": 4, "intermediate_size": 512, "shared_intermediate_size": 1024}
        | {"num_local_experts": 64, "num_experts_per_tok": 6, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
        | {"mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1}
        | {"layer_types": ["full_attention" if n % 10 == 5 else "linear_attention" for n in range(40)]}
        | {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 6.0}
        | {"attention_multiplier": 0.0078125, "position_embedding_type": None},
        {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 8, "shared_intermediate_size": 16}
        | {"mamba_n_heads": 12, "mamba_d_head": 8, "num_hidden_layers": 3, "mamba_chunk_size": 16}
        | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
        {"heads=48": "heads=12", "head=64": "head=8", r"\*\d": ""},
        {"width": 48, "ffn.width": 8},
        _GRANITE,
        options=EAGER,
    ),
    "qwen3-next-80b-a3b": Published(
        "Qwen3Next",
        79_674_391_296,
        {"rope_parameters": PLAIN | {"rope_theta": 1e7, "partial_rotary_factor": 0.25}},
        {"vocab_size": VOCAB, "hidden_size": 64, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 16, "num_experts_per_tok": 4}
        | {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "num_hidden_layers": 4},
        {r"\(heads=32": "(heads=4", "key_heads=16": "key_heads=2", "head=128": "head=8", "value=128": "value=8"}
        | {"head=256": "head=8", r"\]\*12": "]"},
        {"width": 64, "ffn.width": 8, "ffn.experts": 16, "ffn.active": 4},
        _QWEN_NEXT,
        one_plus=r"norm\.weight",
        options=EAGER,
        heads={"in_proj_qkvz": 2, "in_proj_ba": 2, "q_proj": 16},
    ),
    "olmo-hybrid-7b": Published(
        "OlmoHybrid",
        7_430_870_688,
        {"rope_parameters": {"rope_type": "default", "rope_theta": None}},
        {"vocab_size": VOCAB, "hidden_size": 120, "intermediate_size": 64, "num_hidden_layers": 4, "pad_token_id": 0},
        {"11008": "64", r"\]\*8": "]"},
        {"width": 120},
        _OLMO_HYBRID,
    ),
    "kimi-linear-48b-a3b": Published(
        "KimiLinear",
        49_122_675_072,
        _kimi(_FULL, 27),
        {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 8, "pad_token_id": 0}
        | {"kv_lora_rank": 16, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8, "num_local_experts": 16}
        | {"num_experts_per_tok": 4, "linear_head_dim": 8, "linear_num_heads": 4, "num_hidden_layers": 7}
        | _kimi((3, 5, 7), 7),
        {r"\(heads=32": "(heads=4", "head=128": "head=8", "rank=512": "rank=16", "rope_head=64": "rope_head=4"}
        | {"256, 8, 1024": "16, 4, 8", "9216": "96", r"\]\*\d": "]"},
        {"width": 64},
        _KIMI,
        options=EAGER,
    ),
    "falcon-h1-0.5b": Published(
        "FalconH1",
        521_411_104,
        {"vocab_size": 32784, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36, "head_dim": 64}
        | {"num_attention_heads": 8, "num_key_value_heads": 2, "rope_parameters": PLAIN | {"rope_theta": 1e11}}
        | {"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128}
        | {"mamba_norm_before_gate": False, "attention_in_multiplier": 1.0, "attention_out_multiplier": 0.9375}
        | {"embedding_multiplier": 5.656854249492381, "lm_head_multiplier": 0.0390625, "ssm_in_multiplier": 1.25}
        | {"key_multiplier": 0.39062499999999994, "ssm_out_multiplier": 0.23570226039551587}
        | {"ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738]}
        | {"mlp_multipliers": [0.8838834764831844, 0.5859375]},
        {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 8}
        | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_chunk_size": 16},
        {"heads=24": "heads=4", "head=64": "head=8", r"\bscale=[.0-9]+": "scale=.13810679320049757", r"\*36": "*2"},
        {"width": 64, "ffn.width": 96},
        _FALCON,
    ),
}
