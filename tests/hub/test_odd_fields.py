"""Fields that classes of transformers ignore, or read in another way than their name says: no other model is made."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint import LLAMA, opened, run_of

import hybridkit
from hybridkit.hub.described import compile_recipe, recipe_of
from hybridkit.hub.export import choose_family, export_run
from hybridkit.hub.families.recurrent_gemma import rows
from hybridkit.hub.family import FAMILY
from hybridkit.hub.fields import Fields
from hybridkit.recipe.schema import Recipe
from hybridkit.registry.registry import REGISTRY
from hybridkit.system.errors import UserError

pytest.importorskip("transformers", reason="needs the hf extra")
pytestmark = pytest.mark.slow

SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA: dict[str, Any] = {"norm": "both", "ffn": {"act": "gelu_tanh"}, "embedding_scale": 32**0.5}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@pytest.mark.parametrize(
    ("pattern", "options", "near"),
    [
        ("sa(rope=.5)*2", {}, "llama"),
        ("[rglru, swa(kv_heads=1,rope=.5,bias=out,scaling=linear,factor=2):8]",
         {"ffn": {"act": "gelu_tanh", "bias": True}, "logit_cap": 30, "embedding_scale": rows(32)}, "recurrent_gemma"),
        ("[swa:8, sa]", {"embedding_scale": 12}, "ministral"),
        ("swa(rope=.5):8*2", {}, "mistral"),
        ("sa(rope=.5,qk_norm=true)", {}, "qwen3"),
        ("[swa(qk_norm=true,softcap=3):8, sa(qk_norm=true,softcap=3)]", GEMMA, "gemma3_text"),
        ("[swa(qk_norm=projection):8, sa(qk_norm=projection,scaling=yarn,factor=4,original=32,truncate=false)]",
         {"norm": "post"}, "olmo3"),
    ],
)  # fmt: skip
def test_what_a_class_does_not_apply_goes_out_as_remote_code(pattern: str, options: dict[str, Any], near: str) -> None:
    """These classes turn whole heads, and read a soft cap and the rounding of yarn's range without applying them."""
    model = {"width": 32, "heads": 4, "vocab": 257, **options}
    plan = compile_recipe(Recipe.model_validate({"pattern": pattern, "model": model}))
    family, reasons = choose_family(plan)
    assert family.name() == "remote" and near in reasons


def test_every_class_opens_stacks_without_a_window_and_without_factors(tmp_path: Path) -> None:
    """These classes make the mask of a window in any case, and take no whole number for a factor."""
    for number, (pattern, options, family) in enumerate((
        ("sa(qk_norm=projection,scaling=linear,factor=2)", {"norm": "post"}, "olmo3"),
        ("sa(qk_norm=true)", GEMMA, "gemma3_text"),
        ("[sa(sinks=true,bias=true), moe(4,2,16,clip=7,bias=true)]", {"ffn": None}, "gpt_oss"),
        ("mamba2(head=8,state=8,gate_norm=none) | sa", {}, "falcon_h1"),
    )):  # fmt: skip
        run, place = run_of(pattern, tmp_path / f"run{number}", **options), tmp_path / f"out{number}"
        assert export_run(run, place).family == family
        ids = torch.arange(12)[None]
        with torch.no_grad():
            found, wanted = opened(place)(ids).logits, hybridkit.load(run)(ids)[0]
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


MAMBA = {
    "layer_types": None, "sliding_window": None, "rms_norm_eps": None, "layers_block_type": ["mamba"], "n_groups": 1,
    "mamba_num_heads": 2, "mamba_head_dim": 8, "ssm_state_size": 8,
}  # fmt: skip
OWN = {"gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8}, "gpt_oss": {"head_dim": 8, "num_local_experts": 4}}
POSITIONS: list[tuple[str, dict[str, Any], str]] = [  # class, fields, and what is read or said
    ("olmo3", {"rope_theta": 5e5, "rope_scaling": YARN}, "[swa(theta=500000,qk_norm=projection):8, sa(theta=500000,"
     "qk_norm=projection,scaling=yarn,factor=8,original=8192)]"),
    ("olmo3", {"rope_theta": 1e4}, "rope_theta: 10000.0: transformers takes it for full attention alone"),
    ("olmo3", {"rope_parameters": YARN}, "rope_parameters: .* should hold an object for each type of layer"),
    ("gemma3_text", {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
     "[swa(qk_norm=true):8, sa(theta=1000000,qk_norm=true,scaling=linear,factor=8)]"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: 50.0: no block here computes that"),
    ("gpt_oss", {"rope_theta": 1e4}, "[swa(kv_heads=4,head=8,scaling=yarn,factor=32,original=4096,truncate=false,"),
    ("smollm3", {"use_sliding_window": False}, "use_sliding_window: False: layer_types holds sliding_attention"),
    ("llama", {"layer_types": None, "sliding_window": None, "partial_rotary_factor": 0.5}, "this class turns whole"),
    ("llama", {"layer_types": None, "sliding_window": None, "rope_parameters": {"rope_theta": 1e4},
               "rope_scaling": YARN}, "rope_scaling: .* rope_parameters says other positions"),
    ("nemotron_h", {**MAMBA, "time_step_limit": [0.5, 1.2]}, "time_step_limit: .* this class does not apply it"),
    ("nemotron_h", {**MAMBA, "time_step_min": 0.25}, "mamba2(heads=2,head=8,state=8,dt_min=.25)"),
    ("lfm2", {"layer_types": ["conv", FULL], "sliding_window": None, "tie_embedding": False, "rms_norm_eps": None},
     "[conv, sa(theta=1000000,qk_norm=true)]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "said"), POSITIONS)
def test_older_fields_say_what_transformers_reads_in_them(kind: str, fields: dict[str, Any], said: str) -> None:
    """Each was read as another model than transformers' until the configs were drawn at random (tools/stress)."""
    sizes = {**LLAMA, "num_key_value_heads": 4, "num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}
    config = {**sizes, "sliding_window": 8, **OWN.get(kind, {}), **fields}
    config = {name: value for name, value in config.items() if value is not None or name in SPECIAL}
    family = REGISTRY.get(FAMILY, kind)()
    try:
        found = compile_recipe(recipe_of(family.describe(Fields(config, "config.json")))).pattern
    except UserError as error:
        assert re.search(said, str(error)), error
    else:
        assert found.startswith(said)
