"""Options of `sa` and `swa` against the published models that have them, as transformers computes these: one layer's
attention on the same random weights, its gradients, and decoding over its cache.

Their angles, and some norms and softmaxes, are fp32 inside whatever the type: 1e-5 of the largest value.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hybridkit.block import Block, Dims, window_limit, window_of
from hybridkit.language.parser import parse_pattern
from hybridkit.language.resolve import resolve
from hybridkit.registry.registry import REGISTRY

transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")

DIMS, TOKENS, HEAD = Dims(width=32, heads=4, vocab=61), 40, 16
SHARED = {
    "hidden_size": DIMS.width,
    "num_attention_heads": DIMS.heads,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "rms_norm_eps": 1e-6,
    "num_hidden_layers": 1,
    "attn_implementation": "eager",
}
Named = dict[str, Tensor]


def renamed(given: Named) -> Named:
    """Their names as ours."""
    pairs = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "out"}
    return {".".join(pairs.get(part, part) for part in name.split(".")): tensor for name, tensor in given.items()}


def with_ones_added(given: Named) -> Named:
    """Weights of norms that multiply by 1 + w."""
    return {name: tensor + 1 if "_norm" in name else tensor for name, tensor in renamed(given).items()}


def with_a_gate(given: Named) -> Named:
    """Query and gate stand in one matrix, head by head."""
    named = with_ones_added(given)
    both = named.pop("q.weight").unflatten(0, (DIMS.heads, 2, HEAD))
    return named | {"q.weight": both[:, 0].flatten(0, 1), "gate.weight": both[:, 1].flatten(0, 1)}


class Case(NamedTuple):
    """A model, what its config says beside `SHARED`, and our block with the weights it has of it."""

    model: str
    prefix: str
    settings: dict[str, Any]
    pattern: str
    weights: Callable[[Named], Named] = renamed
    layer_type: str | None = None  # of rotary embeddings that differ by it


def rope(theta: float = 1e4, kind: str = "default", **more: float | bool) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": kind, **more}


CASES = [
    Case(
        "llama",
        "Llama",
        {
            "rope_parameters": rope(
                5e5,
                "llama3",
                factor=32.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            )
        },
        "sa(kv_heads=2,head=16,theta=5e5,scaling=llama3,factor=32,original=32)",
    ),
    Case("qwen2", "Qwen2", {"rope_parameters": rope(1e6)}, "sa(kv_heads=2,head=16,theta=1e6,bias=qkv)"),
    Case("olmo2", "Olmo2", {"rope_parameters": rope()}, "sa(kv_heads=2,head=16,qk_norm=projection)"),
    Case(
        "gemma2",
        "Gemma2",
        {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 7, "layer_types": ["sliding_attention"]},
        f"swa(kv_heads=2,head=16,softcap=.5,scale={7**-0.5!r}):9",
    ),
    Case(
        "gemma3",
        "Gemma3Text",
        {
            "query_pre_attn_scalar": 5,
            "layer_types": ["full_attention"],
            "rope_parameters": {
                "full_attention": rope(1e6, "linear", factor=8.0),
                "sliding_attention": rope(),
            },
        },
        f"sa(kv_heads=2,head=16,theta=1e6,scaling=linear,factor=8,qk_norm=true,scale={5**-0.5!r})",
        with_ones_added,
        "full_attention",
    ),
    Case(
        "qwen3_next",
        "Qwen3Next",
        {"rope_parameters": rope(1e7, partial_rotary_factor=0.25), "layer_types": ["full_attention"]},
        "sa(kv_heads=2,head=16,theta=1e7,rope=.25,gate=true,qk_norm=true)",
        with_a_gate,
    ),
    Case(
        "gpt_oss",
        "GptOss",
        {
            "rope_parameters": rope(
                15e4,
                "yarn",
                factor=32.0,
                beta_fast=32.0,
                beta_slow=1.0,
                truncate=False,
                original_max_position_embeddings=4096,
            ),
            "layer_types": ["sliding_attention"],
            "attention_bias": True,
        },
        "swa(kv_heads=2,head=16,theta=15e4,scaling=yarn,factor=32,original=4096,truncate=false,sinks=true,bias=true):9",
    ),
]


class Theirs(nn.Module):
    """Their attention with rotary embedding and mask around it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        module = import_module(f"transformers.models.{case.model}.modeling_{case.model}")
        settings = SHARED | case.settings
        config = getattr(transformers, f"{case.prefix}Config")(**settings)
        config._attn_implementation = "eager"
        stem = case.prefix.removesuffix("Text")
        self.attention = getattr(module, f"{stem}Attention")(config, layer_idx=0)
        self.rotary = getattr(module, f"{stem}RotaryEmbedding")(config)
        self.layer_type = case.layer_type
        for weight in self.attention.parameters():
            nn.init.normal_(weight, std=0.3)
        self.double().eval()

    def forward(self, x: Tensor, window: int | None, cache: Any = None, begin: int = 0) -> Tensor:
        positions = torch.arange(begin, begin + x.shape[1])
        age = positions[:, None] - torch.arange(begin + x.shape[1])
        hidden = (age < 0) | (age >= (window or begin + x.shape[1]))
        mask = torch.zeros(age.shape, dtype=x.dtype).masked_fill(hidden, torch.finfo(x.dtype).min)[None, None]
        more = (self.layer_type,) if self.layer_type else ()
        angles = self.rotary(x, positions[None], *more)
        return self.attention(x, position_embeddings=angles, attention_mask=mask, past_key_values=cache)[0]


def block(text: str) -> Block:
    return resolve(parse_pattern(text)[0], REGISTRY, text).block


def close(ours: Tensor, right: Tensor, what: str = "") -> None:
    assert (ours - right).abs().max() <= 1e-5 * right.abs().max(), what


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_outputs_gradients_and_decoding(case: Case) -> None:
    torch.manual_seed(0)
    theirs, said = Theirs(case), block(case.pattern)
    window = window_limit(window_of(said))
    layer = said.build(DIMS).double()
    layer.load_state_dict(case.weights(dict(theirs.attention.named_parameters())))
    x = torch.randn(2, TOKENS, DIMS.width, dtype=torch.float64)
    ours, right = layer(x)[0], theirs(x, window)
    close(ours, right)
    slope = torch.randn_like(right)
    exact = dict(theirs.attention.named_parameters())
    found = torch.autograd.grad(right, list(exact.values()), slope)
    expected = case.weights(dict(zip(exact, found, strict=True)))
    for (name, _), grad in zip(
        layer.named_parameters(), torch.autograd.grad(ours, list(layer.parameters()), slope), strict=True
    ):
        moved = 1.0 if case.weights is not renamed and "_norm" in name else 0.0  # what `weights` adds to a weight
        close(grad, expected[name] - moved, name)
    with torch.no_grad():
        cache, (_, state) = transformers.DynamicCache(), layer(x[:, :30])
        theirs(x[:, :30], window, cache)
        state = layer.reserve(state, TOKENS)
        for t in range(30, TOKENS):
            y, state = layer.step(x[:, t : t + 1], state)
            close(y, theirs(x[:, t : t + 1], window, cache, t))
