"""Fields of config.json that are no whole numbers, lists or objects where they should be: named, and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from hybridkit.hub.families.kimi_linear import KimiLinear
from hybridkit.hub.families.lfm2 import Lfm2
from hybridkit.hub.families.llama import Llama
from hybridkit.hub.families.qwen3_next import Qwen3Next
from hybridkit.hub.fields import Fields
from hybridkit.hub.importing import describe_folder
from hybridkit.hub.tokenizer import byte_level
from hybridkit.hub.transformers_class import TransformersClass
from hybridkit.runs.run import Run
from hybridkit.system.errors import UserError

LISTS = "should be a list of whole numbers, 0 or above"
KIMI = {"num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4, "kda_layers": [1, 2], "full_attn_layers": [3]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rope(**said: Any) -> dict[str, Any]:
    return {"rope_scaling": said, "max_position_embeddings": 64}


WRONG: dict[str, tuple[type[TransformersClass], dict[str, Any], str]] = {
    "mscale without a factor": (
        Llama, rope(rope_type="yarn", mscale=1.0, mscale_all_dim=0.7), "rope_scaling: .* factor is missing"
    ),
    "yarn": (Llama, rope(rope_type="yarn", beta_fast=8), "factor is missing, which positions of type yarn need"),
    "linear": (Llama, rope(rope_type="linear"), "factor is missing, which positions of type linear need"),
    "llama3, low": (Llama, rope(**{**LLAMA3, "low_freq_factor": None}), "low_freq_factor is missing"),
    "llama3, high": (Llama, rope(**{**LLAMA3, "high_freq_factor": None}), "high_freq_factor is missing"),
    "a number for layers": (Lfm2, {"full_attn_idxs": 1}, f"full_attn_idxs: 1: {LISTS}"),
    "texts for layers": (Lfm2, {"full_attn_idxs": ["1"]}, f"full_attn_idxs: .*: {LISTS}"),
    "dense layers": (Qwen3Next, {"mlp_only_layers": 1}, f"mlp_only_layers: 1: {LISTS}"),
    "a number for Kimi's layers": (
        KimiLinear, {"linear_attn_config": {**KIMI, "full_attn_layers": 2}},
        f"config.json: linear_attn_config: full_attn_layers: 2: {LISTS}",
    ),
    "a list alone": (
        KimiLinear, {"linear_attn_config": {**KIMI, "kda_layers": None}}, "it should name every layer from 1 to 3 once",
    ),
    "a layer twice": (
        KimiLinear, {"linear_attn_config": {**KIMI, "kda_layers": [1, 2, 3]}}, "it should name every layer from 1 to 3",
    ),
    "an unknown field within": (
        KimiLinear, {"linear_attn_config": {**KIMI, "new_trick": 7}},
        "linear_attn_config: new_trick: 7: this is not known here",
    ),
    "no object": (KimiLinear, {"linear_attn_config": [1]}, "linear_attn_config: .*: should be an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_it_is_named(name: str) -> None:
    family, said, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        family().describe(Fields({"num_hidden_layers": 3, **said}, "config.json"))


def test_older_fields_of_kimi_are_read_beside_newer_ones() -> None:
    """As transformers reads them: a field of the object counts before its newer name."""
    said = {"linear_num_heads": 2, "linear_head_dim": 16, "linear_attn_config": {**KIMI, "head_dim": None}}
    calls = KimiLinear().describe(Fields({"num_hidden_layers": 3, **said}, "config.json")).calls
    assert [one.partition("(")[0] for one in calls] == ["kda", "ffn", "kda", "moe", "mla", "moe"]
    assert calls[0].startswith("kda(heads=4,head=16,conv=4")


@pytest.mark.parametrize(
    ("longest", "sequence"), [(131072, 8192), (1500, 1024), (512, 512), (3, 2), (None, 1024), (0, 1024)]
)
def test_no_text_is_longer_than_the_checkpoint_allows(longest: Any, sequence: int, tmp_path: Path) -> None:
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    said = {"model_type": "llama", **sizes, "num_hidden_layers": 1, "max_position_embeddings": longest}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_level(), ensure_ascii=False), encoding="utf-8")
    (tmp_path / "run").mkdir()
    describe_folder(tmp_path, Run(tmp_path / "run"))
    assert Run(tmp_path / "run").recipe.recipe.data.sequence == sequence
