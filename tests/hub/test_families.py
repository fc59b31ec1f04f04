"""Every family: a random instance of transformers, imported, exported, opened and imported again.

The tolerance is relative to the largest value: fp32 keeps 7 digits, and some layers of sums lose about one of them.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from checkpoint import LLAMA, greedy, instance, opened, save
from project import ROOT
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import hybridkit
from hybridkit.hub.export import choose_family, export_run
from hybridkit.hub.family import FAMILY
from hybridkit.hub.importing import import_folder
from hybridkit.hub.weight_rules import to_theirs
from hybridkit.inference.language_model import LanguageModel
from hybridkit.registry.registry import REGISTRY
from hybridkit.runs.run import Run
from hybridkit.runs.weights import weights_of

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow


class Case(NamedTuple):
    """A class of transformers with settings, and what comes of it."""

    name: str
    settings: dict[str, Any]
    pattern: str
    family: str  # that its export is of


SLIDING, FULL = "sliding_attention", "full_attention"
MIXED = {"sliding_window": 8, "num_hidden_layers": 3, "layer_types": [SLIDING, SLIDING, FULL]}
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
GPT_OSS = "kv_heads=2,head=8,theta=150000,scaling=yarn,factor=32,original=4096,truncate=false,sinks=true,bias=true"
CASES = [
    Case("Llama", {**LLAMA, "num_hidden_layers": 2}, "sa(kv_heads=2)*2", "llama"),
    Case(
        "Llama",
        {**LLAMA, "num_hidden_layers": 2, "head_dim": 6, "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "sa(kv_heads=2,head=6,theta=500000)*2", "llama",
    ),
    Case("Mistral", {**LLAMA, "num_hidden_layers": 2, "sliding_window": 8}, "swa(kv_heads=2):8*2", "mistral"),
    Case("Ministral", {**LLAMA, **MIXED, "head_dim": 8}, "[swa(kv_heads=2):8*2, sa(kv_heads=2)]", "ministral"),
    Case("Qwen3", {**LLAMA, "num_hidden_layers": 2, "head_dim": 8}, "sa(kv_heads=2,qk_norm=true)*2", "qwen3"),
    Case(
        "Qwen3", {**LLAMA, **MIXED, "head_dim": 8, "use_sliding_window": True},
        "[swa(kv_heads=2,qk_norm=true):8*2, sa(kv_heads=2,qk_norm=true)]", "qwen3",
    ),
    Case(
        "SmolLM3", {**LLAMA, **MIXED, "use_sliding_window": True, "no_rope_layers": [1, 1, 0]},
        "[swa(kv_heads=2,theta=2000000):8*2, sa(kv_heads=2,theta=null)]", "smollm3",
    ),
    Case(
        "xLSTM",
        {"vocab_size": 257, "hidden_size": 128, "num_heads": 2, "num_hidden_layers": 2, "eos_token_id": 256,
         "autocast_kernel_dtype": "float32", "pad_token_id": None, "bos_token_id": None},
        "mlstm*2", "xlstm",
    ),
    Case(
        "Llama", {**LLAMA, "num_hidden_layers": 1, "attention_bias": True, "mlp_bias": True,
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
        "sa(kv_heads=2,scaling=llama3,factor=8,original=32,bias=true)", "llama",
    ),
    Case(
        "Qwen3", {**LLAMA, "num_hidden_layers": 1, "head_dim": 8,
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 8.0,
                             "original_max_position_embeddings": 32}},
        "sa(kv_heads=2,qk_norm=true,scaling=yarn,factor=4,original=32,fast=8)", "qwen3",
    ),
    Case(
        "Granite", {**LLAMA, "num_hidden_layers": 2, "embedding_multiplier": 12.0, "residual_multiplier": 0.5,
         "attention_multiplier": 0.25, "logits_scaling": 4.0, "tie_word_embeddings": True},
        "sa(kv_heads=2,scale=.25)*2", "granite",
    ),
    Case(
        "Olmo3", {**LLAMA, **MIXED,
         "rope_parameters": {SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                             FULL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}}},
        "[swa(kv_heads=2,qk_norm=projection):8*2,"
        " sa(kv_heads=2,theta=100000,qk_norm=projection,scaling=linear,factor=2)]",
        "olmo3",
    ),
    Case(
        "Gemma3", {**LLAMA, **MIXED, "head_dim": 8, "query_pre_attn_scalar": 12, "final_logit_softcapping": 20.0},
        "[swa(kv_heads=2,qk_norm=true,scale=.28867513459481287):8*2,"
        " sa(kv_heads=2,theta=1000000,qk_norm=true,scale=.28867513459481287)]", "gemma3_text",
    ),
    Case(
        "Lfm2", {**{key: value for key, value in LLAMA.items() if key != "rms_norm_eps"}, "num_hidden_layers": 3,
         "layer_types": ["conv", FULL, "conv"], "block_multiple_of": 8},
        "[conv, sa(kv_heads=2,theta=1000000,qk_norm=true), conv]", "lfm2",
    ),
    Case(
        "Mamba2", {**{key: LLAMA[key] for key in ("vocab_size", "hidden_size", *SPECIAL)}, "num_hidden_layers": 2,
         "num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 2, "chunk_size": 16},
        "mamba2(head=8,state=16,groups=2)*2", "mamba2",
    ),
    Case(
        "OlmoHybrid", {**LLAMA, "num_hidden_layers": 2, "layer_types": ["linear_attention", FULL],
         "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "[gdn(heads=4,key_heads=4,head=8,value=8,allow_neg_eigval=true), ffn(width=48),"
        " sa(kv_heads=2,qk_norm=projection,norm=post), ffn(width=48,norm=post)]", "olmo_hybrid",
    ),
    Case(
        "Qwen3Next", {**LLAMA, "num_hidden_layers": 2, "head_dim": 16, "layer_types": ["linear_attention", FULL],
         "linear_key_head_dim": 8, "linear_value_head_dim": 6, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "router_aux_loss_coef": 0.0,
         "shared_expert_intermediate_size": 16, "mlp_only_layers": [1]},
        "[gdn(heads=4,key_heads=2,head=8,value=6,start=qwen), moe(4,2,16,shared=1,shared_gate=true,aux=0),"
        " sa(kv_heads=2,head=16,qk_norm=true,rope=.25,gate=true), ffn(width=48)]", "qwen3_next",
    ),
    Case(
        "GptOss", {**LLAMA, "num_hidden_layers": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
         "sliding_window": 8, "intermediate_size": 16, "swiglu_limit": 2.0, "router_aux_loss_coef": 0.0},
        f"[swa({GPT_OSS}):8, moe(4,2,16,clip=2,bias=true,aux=0), sa({GPT_OSS}), moe(4,2,16,clip=2,bias=true,aux=0)]",
        "gpt_oss",
    ),
    Case(
        "NemotronH", {**{key: value for key, value in LLAMA.items() if key != "rms_norm_eps"}, "head_dim": 8,
         "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 8,
         "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16},
        "[mamba2(heads=4,head=8,state=8,groups=2,dt_min=.001), sa(kv_heads=2,head=8,theta=null),"
        " ffn(width=48,act=relu2,gated=false)]",
        "nemotron_h",
    ),
    Case(
        "KimiLinear", {**LLAMA, "num_key_value_heads": 4, "num_hidden_layers": 2, "num_experts": 4,
         "num_experts_per_token": 2, "moe_intermediate_size": 16, "layer_types": ["linear_attention", FULL],
         "linear_head_dim": 8, "linear_num_heads": 4,
         "kv_lora_rank": 12, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8},
        "[kda(heads=4,head=8), ffn(width=48), mla(head=8,rank=12,rope_head=4,value_head=8,theta=null),"
        " moe(4,2,16,shared=1,route=sigmoid,factor=2.446,correction=.001,aux=0)]", "kimi_linear",
    ),
    Case(
        "FalconH1", {**LLAMA, "num_hidden_layers": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
         "mamba_d_state": 8, "mamba_chunk_size": 16, "key_multiplier": 0.4, "attention_out_multiplier": 0.9,
         "embedding_multiplier": 5.7, "lm_head_multiplier": 0.5, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.25,
         "ssm_multipliers": [0.5, 0.25, 0.75, 2.0, 1.5], "mlp_multipliers": [0.9, 0.6]},
        "[mamba2(heads=4,head=8,state=8,gate_norm=none,z_scale=.5,x_scale=.25,b_scale=.75,c_scale=2,dt_scale=1.5,"
        "in_scale=1.25,out_scale=.25) | sa(kv_heads=2,scale=.14142135623730953,out_scale=.9)]*2", "falcon_h1",
    ),
    Case(
        "GraniteMoeHybrid", {**LLAMA, "num_hidden_layers": 2, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
         "layer_types": ["linear_attention", FULL], "num_local_experts": 4, "intermediate_size": 8,
         "mamba_chunk_size": 16, "shared_intermediate_size": 16, "attention_multiplier": 0.25, "logits_scaling": 4.0,
         "residual_multiplier": 0.5, "embedding_multiplier": 12.0, "tie_word_embeddings": True,
         "router_aux_loss_coef": 0.0},
        "[mamba2(heads=8,head=8,state=8), sa(kv_heads=2,theta=null,scale=.25)]", "granitemoehybrid",
    ),
    Case(
        "RecurrentGemma", {**LLAMA, "num_hidden_layers": 3, "attention_window_size": 8},
        "[rglru*2, swa(kv_heads=2,rope=.5,bias=out):8]", "recurrent_gemma",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.name}" for n, case in enumerate(CASES)])
def test_in_and_out(case: Case, tmp_path: Path) -> None:
    theirs = instance(case.name, **case.settings)
    run = import_folder(save(theirs, tmp_path / "theirs"), tmp_path / "run").run
    ours = hybridkit.load(run)
    assert ours.plan.pattern == case.pattern
    same_function(ours, theirs)

    family = export_run(run, tmp_path / "out").family
    assert family == case.family
    again = opened(tmp_path / "out")
    assert type(again) is type(theirs)
    ids = torch.randint(257, (2, 40))
    with torch.no_grad():
        found, wanted = again(ids).logits, theirs(ids).logits
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()  # sums in chunks of other sizes, at most
    assert greedy(again, ids[:1, :20], 20) == greedy(theirs, ids[:1, :20], 20)

    back = Run(import_folder(tmp_path / "out", tmp_path / "back").run)
    assert back.recipe.recipe.pattern == Run(run).recipe.recipe.pattern
    before, after = Run(run).weights(), back.weights()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def same_function(ours: LanguageModel, theirs: nn.Module) -> None:
    """Logits, gradients of every weight, and 64 greedy tokens from the cache."""
    ids = torch.randint(257, (2, 64), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1, 1)
    ours.requires_grad_(True)
    logits = theirs(ids, use_cache=False).logits
    assert (ours(ids)[0] - logits).abs().max() <= 1e-5 * logits.abs().max()
    ours(ids, targets=targets)[0].backward()
    F.cross_entropy(theirs(ids, use_cache=False).logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    right = {name: grad for name, grad in stored_gradients(theirs).items() if "correction" not in name}
    grads = {name: parameter.grad for name, parameter in ours.named_parameters() if name in weights_of(ours)}
    family = choose_family(ours.plan)[0]
    rules = [rule for rule in family.as_stored(family.rules(ours.plan), right) if set(rule.ours) <= grads.keys()]
    origin = dict(to_theirs(rules, {name: torch.zeros_like(grad) for name, grad in grads.items()}))
    found = {name: grad - origin[name] for name, grad in to_theirs(rules, grads)}  # without what norms add
    assert found.keys() == right.keys()
    largest = max(grad.abs().max() for grad in right.values())
    for name, grad in found.items():  # those of A_log are small sums of large terms: 6e-5 from fp64
        tolerance = 1e-4 if name.endswith("A_log") else 5e-5
        assert (grad - right[name]).abs().max() <= tolerance * max(right[name].abs().max(), largest / 100), name
    context = ours.requires_grad_(False).prefill(ids[:1, :20])
    assert [int(one) for one in ours.generate(context, max_tokens=64, temperature=0)] == greedy(
        theirs, ids[:1, :20], 64
    )


def stored_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Under the names, and in the shapes, in which files hold the weights."""
    with tempfile.TemporaryDirectory() as name:
        weights = [parameter.data for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.data = parameter.grad
        found = load_file(save(model, Path(name)) / "model.safetensors")
        for parameter, before in zip(model.parameters(), weights, strict=True):
            parameter.data = before
        return found


def test_the_page_names_every_class() -> None:
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    families = [REGISTRY.get(FAMILY, name) for name in REGISTRY.names(FAMILY)]
    assert not [one.architecture for one in families if one.preference and f"`{one.architecture}`" not in page]
