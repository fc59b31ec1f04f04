"""`mla` against DeepSeek-V3's and Kimi Linear's attention, as transformers computes them, and its cache.

Angles and norms are fp32 there whatever the type: 1e-5 of the largest value.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hybridkit.block import Dims, state_bytes
from hybridkit.language.parser import parse_pattern
from hybridkit.language.resolve import resolve
from hybridkit.registry.registry import REGISTRY
from hybridkit.testing.layer_under_test import built
from hybridkit_blocks.mla import LatentAttention

DIMS, TOKENS, HEAD, ROPE, RANK = Dims(width=32, heads=4, vocab=61), 40, 8, 4, 20
SHARED = {
    "hidden_size": DIMS.width,
    "num_attention_heads": DIMS.heads,
    "num_key_value_heads": DIMS.heads,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": HEAD,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": 6,
    "num_hidden_layers": 1,
}
Named = dict[str, Tensor]


class Case(NamedTuple):
    """A model, what its config says beside `SHARED`, our block, and its weights of theirs."""

    model: str
    prefix: str
    settings: dict[str, Any]
    text: str
    weights: Callable[[Named], Named]


def cut(theirs: Named) -> Named:
    """The latent's and the rotated part's projections stand in one matrix."""
    down = theirs["kv_a_proj_with_mqa.weight"]
    named = {
        "down.weight": down[:RANK],
        "rope.weight": down[RANK:],
        "norm.weight": theirs["kv_a_layernorm.weight"],
        "expand.weight": theirs["kv_b_proj.weight"],
        "out.weight": theirs["o_proj.weight"],
    }
    pairs = {"q_proj": "q", "q_a_proj": "q_down", "q_a_layernorm": "q_norm", "q_b_proj": "q"}
    return named | {
        f"{ours}.weight": theirs[f"{name}.weight"] for name, ours in pairs.items() if f"{name}.weight" in theirs
    }


def in_halves(theirs: Named) -> Named:
    """Neighbouring channels that turn together are moved half a part away from each other."""
    named = cut(theirs)
    order = torch.cat([torch.arange(0, ROPE, 2), torch.arange(1, ROPE, 2)])
    q = named["q.weight"].unflatten(0, (DIMS.heads, -1))
    return named | {
        "rope.weight": named["rope.weight"][order],
        "q.weight": torch.cat([q[:, :HEAD], q[:, HEAD:][:, order]], 1).flatten(0, 1),
    }


ROTARY = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}
SCALE = (0.1 * torch.tensor(40.0, dtype=torch.float64).log().item() + 1) ** 2 / (HEAD + ROPE) ** 0.5
CASES = [
    Case(
        "deepseek_v3",
        "DeepseekV3",
        {"q_lora_rank": 12, "rope_parameters": {**ROTARY, "original_max_position_embeddings": 64}},
        f"mla(4,8,20,4,6,12,scaling=yarn,factor=40,original=64,magnitude=1,scale={SCALE!r})",
        in_halves,
    ),
    Case("kimi_linear", "KimiLinear", {"q_lora_rank": None}, "mla(4,8,20,4,6,theta=null)", cut),
]


def block(text: str) -> LatentAttention:
    found = resolve(parse_pattern(text)[0], REGISTRY, text).block
    assert isinstance(found, LatentAttention)
    return found


def theirs_of(case: Case) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Their attention, and a call of it with angles and mask."""
    transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")
    torch.manual_seed(0)
    module = import_module(f"transformers.models.{case.model}.modeling_{case.model}")
    config = getattr(transformers, f"{case.prefix}Config")(**SHARED, **case.settings)
    config._attn_implementation = "eager"
    attention = getattr(module, f"{case.prefix}Attention")(config, layer_idx=0).double().eval()
    for weight in attention.parameters():
        nn.init.normal_(weight, std=0.3)
    rotary = getattr(module, f"{case.prefix}RotaryEmbedding", None)
    angles = rotary(config) if rotary else None

    def call(x: Tensor, cache: Any = None, begin: int = 0) -> Tensor:
        positions = torch.arange(begin, begin + x.shape[1])
        hidden = positions[:, None] < torch.arange(begin + x.shape[1])
        mask = torch.zeros(hidden.shape, dtype=x.dtype).masked_fill(hidden, torch.finfo(x.dtype).min)[None, None]
        given = {} if angles is None else {"position_embeddings": angles(x, positions[None])}
        y: Tensor = attention(x, attention_mask=mask, past_key_values=cache, **given)[0]
        return y

    return attention, call


def close(ours: Tensor, right: Tensor) -> None:
    assert (ours - right).abs().max() <= 1e-5 * right.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_outputs_gradients_and_decoding(case: Case) -> None:
    attention, theirs = theirs_of(case)
    layer, named = block(case.text).build(DIMS).double(), dict(attention.named_parameters())
    layer.load_state_dict({name: tensor.detach() for name, tensor in case.weights(named).items()})
    x = torch.randn(2, TOKENS, DIMS.width, dtype=torch.float64)
    ours, right = layer(x)[0], theirs(x)
    close(ours, right)
    slope, own = torch.randn_like(x), dict(layer.named_parameters())
    exact = torch.autograd.grad(right, list(named.values()), slope)
    expected = case.weights(dict(zip(named, exact, strict=True)))
    for name, grad in zip(own, torch.autograd.grad(ours, list(own.values()), slope), strict=True):
        close(grad, expected[name])
    with torch.no_grad():
        cache, (_, state) = import_module("transformers").DynamicCache(), layer(x[:, :30])
        theirs(x[:, :30], cache)
        state = layer.reserve(state, TOKENS)
        for t in range(30, TOKENS):
            y, state = layer.step(x[:, t : t + 1], state)
            close(y, theirs(x[:, t : t + 1], cache, t))


@pytest.mark.parametrize("text", ["mla", "mla(rope_head=0,q_rank=5)"])
@torch.no_grad()
def test_steps_read_the_latents_themselves(text: str) -> None:
    """The absorbed form of a step against the expanded one of a call, in float64."""
    said = block(text)
    layer, x = built(said, DIMS), torch.randn(2, TOKENS, DIMS.width, dtype=torch.float64)
    right, final = layer(x)
    state = layer.reserve(said.init_state(DIMS, 2, 0, dtype=x.dtype), TOKENS)
    for t in range(TOKENS):
        y, state = layer.step(x[:, t : t + 1], state)
        torch.testing.assert_close(y[:, 0], right[:, t], rtol=1e-10, atol=1e-10)
    for ours, exact in zip(state, final, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)


def test_the_cache_holds_one_latent_and_one_rotated_part_a_token() -> None:
    said = block("mla(4,8,20,4)")
    sizes = [state_bytes(said.init_state(DIMS, 3, tokens, dtype=torch.float32)) for tokens in (100, 101)]
    assert sizes[1] - sizes[0] == 3 * 4 * (20 + 4)


@pytest.mark.parametrize(
    ("text", "said"), [("mla(heads=3)", "3 heads do not divide"), ("mla(rope_head=3)", "choose 4, or theta=null")]
)
def test_sizes_that_do_not_fit_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        block(text).build(DIMS)
