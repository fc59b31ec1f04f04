"""Other libraries' models in the sizes of the 1.4B recipes, which `gpu_sections.py` trains beside ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_models import Bench
from torch import nn


def _sizes(bench: Bench) -> dict[str, Any]:
    width = 64 if bench.small else 2048
    return {
        "vocab_size": 257 if bench.small else 131072,
        "hidden_size": width,
        "num_hidden_layers": 2 if bench.small else 24,
    }


def llama(bench: Bench) -> nn.Module:
    """transformers' Llama with the shape of transformer-1.4b."""
    import transformers

    sizes = _sizes(bench)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **sizes, intermediate_size=5461 * sizes["hidden_size"] // 2048,
            num_attention_heads=4 if bench.small else 16, tie_word_embeddings=True,
            attn_implementation="sdpa", max_position_embeddings=bench.sequence,
        )
    )  # fmt: skip


def xlstm(bench: Bench) -> nn.Module:
    """transformers' xLSTM with the shape of xlstm-1.4b."""
    import transformers

    kernel = "bfloat16" if bench.device.type == "cuda" else "float32"
    return transformers.xLSTMForCausalLM(
        transformers.xLSTMConfig(
            **_sizes(bench), num_heads=4 if bench.small else 8, use_cache=False, mode="train",
            autocast_kernel_dtype=kernel, tie_word_embeddings=True,
        )
    )  # fmt: skip


def gated_delta_net(bench: Bench) -> nn.Module:
    """fla's gated DeltaNet."""
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM

    return GatedDeltaNetForCausalLM(GatedDeltaNetConfig(**_sizes(bench), num_heads=4 if bench.small else 8))


def mamba2(bench: Bench) -> nn.Module:
    """fla's Mamba-2."""
    from fla.models import Mamba2Config, Mamba2ForCausalLM

    return Mamba2ForCausalLM(Mamba2Config(**_sizes(bench)))


PEERS: dict[str, Callable[[Bench], nn.Module]] = {
    "llama": llama,
    "xlstm": xlstm,
    "gated_delta_net": gated_delta_net,
    "mamba2": mamba2,
}
