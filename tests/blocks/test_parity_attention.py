"""Stacks of `swa` or `sa` and `ffn` against transformers' Mistral and Llama on the same random weights, in fp32.

Tolerances are relative to the largest value: fp32 keeps 7 digits, and two layers of sums lose about one of them.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import rounding
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import Block, Dims
from hybridkit_blocks.ffn import FeedForward
from hybridkit_blocks.sa import SelfAttention
from hybridkit_blocks.swa import SlidingWindowAttention
from hybridkit_blocks.windows.fixed import Fixed

transformers = pytest.importorskip("transformers", reason="parity needs the hf extra")

MIXERS = [SelfAttention(kv_heads=2), SlidingWindowAttention(kv_heads=2, window=Fixed(window=16))]
DIMS, LAYERS, TOKENS, INNER, EPS = Dims(width=32, heads=4, vocab=61), 2, 75, 48, 1e-5
NAMES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.o_proj"}
FFN_NAMES = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
CONFIG = SimpleNamespace(
    vocab_size=DIMS.vocab,
    hidden_size=DIMS.width,
    intermediate_size=INNER,
    num_hidden_layers=LAYERS,
    num_attention_heads=DIMS.heads,
    num_key_value_heads=2,
    rms_norm_eps=EPS,
    max_position_embeddings=TOKENS,
    use_cache=False,
)


def theirs(kind: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**vars(CONFIG), **settings)
    return getattr(transformers, f"{kind}ForCausalLM")(config).float()


class Stack(nn.Module):
    """Pre-norm residual stack of a mixer and `ffn`, with the other model's weights copied in."""

    def __init__(self, mixer: Block, other: nn.Module) -> None:
        super().__init__()
        self.other = other
        self.mixers = nn.ModuleList(mixer.build(DIMS) for _ in range(LAYERS))
        self.ffns = nn.ModuleList(FeedForward(width=INNER).build(DIMS) for _ in range(LAYERS))
        for ours, right in self.pairs():
            ours.data.copy_(right.data)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Our weights beside theirs."""
        sides = zip(self.mixers, self.ffns, self.other.model.layers, strict=True)
        return [
            (getattr(part, name).weight, layer.get_submodule(path).weight)
            for mixer, ffn, layer in sides
            for part, names in ((mixer, NAMES), (ffn, FFN_NAMES))
            for name, path in names.items()
        ]

    def forward(self, tokens: Tensor) -> Tensor:
        model = self.other.model
        x = model.embed_tokens(tokens)
        for mixer, ffn, layer in zip(self.mixers, self.ffns, model.layers, strict=True):
            x = x + mixer(F.rms_norm(x, x.shape[-1:], layer.input_layernorm.weight, EPS))[0]
            x = x + ffn(F.rms_norm(x, x.shape[-1:], layer.post_attention_layernorm.weight, EPS))[0]
        return F.linear(F.rms_norm(x, x.shape[-1:], model.norm.weight, EPS), self.other.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("kind", "mixer", "settings"),
    [
        ("Llama", SelfAttention(kv_heads=2), {}),
        ("Mistral", SlidingWindowAttention(kv_heads=2, window=Fixed(window=16)), {"sliding_window": 16}),
        ("Mistral", SlidingWindowAttention(kv_heads=2, window=Fixed(window=200)), {"sliding_window": 200}),
    ],
    ids=["Llama", "Mistral 16", "Mistral 200"],
)
def test_logits_and_gradients(kind: str, mixer: Block, settings: dict[str, int], attention: str) -> None:
    other = theirs(kind, attn_implementation=attention, **settings)
    stack = Stack(mixer, other)
    tokens = torch.randint(DIMS.vocab, (2, TOKENS))
    right = other(tokens).logits
    ours = stack(tokens)
    same(ours, right)
    targets = tokens.roll(-1, 1).flatten()
    ours_weights, right_weights = zip(*stack.pairs(), strict=True)
    ours_grads = torch.autograd.grad(F.cross_entropy(ours.flatten(0, 1), targets), ours_weights)
    right_grads = torch.autograd.grad(F.cross_entropy(right.flatten(0, 1), targets), right_weights)
    for ours_grad, right_grad in zip(ours_grads, right_grads, strict=True):
        same(ours_grad, right_grad)


@pytest.mark.slow
@pytest.mark.parametrize("precision", rounding.PRECISIONS)
@pytest.mark.parametrize("mixer", MIXERS, ids=["Llama", "Mistral 16"])
def test_bf16_is_float64_to_rounding(mixer: Block, precision: str) -> None:
    """The stack that equals theirs in fp32, with weights in bf16 and under autocast."""
    stack, tokens = Stack(mixer, theirs("Llama", attn_implementation="eager")), torch.randint(DIMS.vocab, (2, TOKENS))
    rounding.check(stack, precision, lambda m: (m(tokens), [ours for ours, _ in m.pairs()]))


def same(ours: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-5 * right.abs().max().item())
