"""Models of published sizes, said as patterns: as many parameters as transformers counts, on the meta device."""

from typing import Any

import pytest
import torch

from hybridkit.cost.flops import CostSettings, cost
from hybridkit.model.config import ModelConfig
from hybridkit.model.plan import compile_pattern

pytestmark = pytest.mark.slow  # transformers builds hundreds of modules
SINKS = "kv_heads=8,head=64,theta=150000,scaling=yarn,factor=32,original=4096,truncate=false,sinks=true,bias=true"
EXPERTS = "moe(32,4,2880,bias=true,clip=7)"
LATENT = "mla(128,128,512,64,128,1536,scaling=yarn,factor=40,original=4096,magnitude=1,scale=.1352)"
ROUTED = "moe(256,8,2048,1,sigmoid,factor=2.5,correction=.001,groups=8,active_groups=4)"
QWEN = {
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("pattern", "sizes", "config", "settings", "active"),
    [
        (
            f"[swa({SINKS}):128, {EXPERTS}, sa({SINKS}), {EXPERTS}]*12",
            (2880, 64, 201088),
            "GptOss",
            {"num_hidden_layers": 24, "num_local_experts": 32, "vocab_size": 201088},
            3.6,  # without the embedding
        ),
        (
            "[sa(kv_heads=4,head=128,theta=1e6,qk_norm=true), moe(128,8,768)]*48",
            (2048, 32, 151936),
            "Qwen3Moe",
            QWEN,
            3.0,
        ),
        (f"[[{LATENT}, ffn(width=18432)]*3, [{LATENT}, {ROUTED}]*58]", (7168, 128, 129280), "DeepseekV3", {}, 36.6),
    ],
    ids=["gpt-oss-20b", "Qwen3-30B-A3B", "DeepSeek-V3"],
)
def test_parameters(
    pattern: str, sizes: tuple[int, int, int], config: str, settings: dict[str, Any], active: float
) -> None:
    """All of them to the element; those that a token passes, in 1e9, as the models' cards round them."""
    transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")
    width, heads, vocab = sizes
    found = cost(compile_pattern(pattern, ModelConfig(width, heads, vocab, ffn=None)), CostSettings(context=4096))
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{config}Config")(**settings))
    assert found.parameters.total == sum(p.numel() for p in theirs.parameters())
    assert (found.active - found.parameters.embedding) / 1e9 == pytest.approx(active, abs=0.06)
