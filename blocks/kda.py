"""Kimi Delta Attention (arXiv 2510.26692): Gated DeltaNet with a decay of its own for every channel of a key.

    S_t = (1 - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t
    a_t = exp(-exp(A_log) softplus(f(x) + dt_bias))    beta_t = sigmoid(b(x))    y = out(norm(o) * sigmoid(gate(x)))

with q, k and v behind a short convolution and SiLU, q and k of length 1 (ops/delta_layer.py, ops/delta_rule.py). f and
gate each pass V numbers: f = f_b f_a. With `lower_bound=-5` the decay is safe, as in Ling 2.6 and GLM-5-Next: log a_t =
-5 sigmoid(exp(A_log) (f(x) + dt_bias)). Said as published: Kimi-Linear `kda(heads=32,head=128)`, Ling 2.6
`kda(head=128,lower_bound=-5,low_rank=false)`, fla's layer `kda(gate_bias=true)`.

Letters: B batch, T tokens, D width, H value heads, J key heads, K and V width of a key and a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridkit.block import Dims, Linear, Start, set_to, small_init_
from hybridkit_blocks.ops.activation import SIGMOID
from hybridkit_blocks.ops.decay_starts import SLOW, log_rates, log_uniform_steps
from hybridkit_blocks.ops.delta_block import DeltaBlock, DeltaSizes
from hybridkit_blocks.ops.delta_layer import DeltaLayer
from hybridkit_blocks.ops.delta_pairs import ChannelPairs
from hybridkit_blocks.ops.delta_rule import chunk_products


class Kda(DeltaBlock):
    """Kimi Delta Attention: a delta rule whose decay is one a channel; `heads` defaults to the model's.

    `heads` are value heads, `key_heads` divide them; a key has `head` numbers (default the width over the heads) and a
    value `value` (default as many). `conv` is the tokens that the convolution sees. `allow_neg_eigval` lets beta reach
    2. `lower_bound` bounds the log decay of a token. Without `low_rank` the decay and the gate have whole projections;
    `gate_bias` gives the gate one.
    """

    rates: ClassVar[int] = 1
    lower_bound: float | None = Field(None, lt=0)
    low_rank: bool = True
    gate_bias: bool = False

    def default_head(self, width: int, heads: int) -> int:
        return max(1, width // heads)

    def default_value(self, key: int) -> int:
        return key

    def projections(self, dims: Dims) -> list[tuple[int, int]]:
        sizes = self.sizes(dims)
        values, decays = sizes.channels[2], sizes.heads * sizes.key
        rank = sizes.value if self.low_rank else dims.width
        down = [(dims.width, rank)] * 2 if self.low_rank else []
        into = [(dims.width, outputs) for outputs in sizes.channels]
        return [*into, *down, (rank, values), (rank, decays), (values, dims.width)]

    def chunk_products(self, sizes: DeltaSizes, tokens: int) -> int:
        return chunk_products(sizes.heads, sizes.key, sizes.value, tokens, ChannelPairs.count)

    def neutral(self, sizes: DeltaSizes, dims: Dims, like: Tensor) -> Sequence[Start]:
        """Decay and gate that do not depend on x: a decay of 2^-.1 a token (with a lower bound, that of the initial
        A_log and dt_bias), and a gate of 1/2."""
        heads, _, key, value = sizes
        rank = value if self.low_rank else dims.width
        starts = [
            set_to("f_b.weight", like.new_zeros(heads * key, rank)),
            set_to("g_b.weight", like.new_zeros(heads * value, rank)),
        ]
        if self.lower_bound is not None:
            return starts
        rates = set_to("A_log", like.new_full((heads,), SLOW)), set_to("dt_bias", like.new_zeros(heads * key))
        return [*starts, *rates]

    def build(self, dims: Dims) -> KdaLayer:
        return KdaLayer(self, dims)


class KdaLayer(DeltaLayer):
    """The built Kimi Delta Attention."""

    def __init__(self, block: Kda, dims: Dims) -> None:
        super().__init__(block, dims)
        heads, _, key, value = self.sizes
        self.activation, self.lower_bound = SIGMOID, block.lower_bound
        rank = value if block.low_rank else dims.width
        self.f_a, self.g_a = (Linear(dims.width, value, bias=False) if block.low_rank else None for _ in range(2))
        self.f_b, self.g_b = (Linear(rank, heads * width, bias=False) for width in (key, value))
        for linear in filter(None, (self.f_a, self.f_b, self.g_a, self.g_b)):
            small_init_(linear.weight)
        self.gate_bias = nn.Parameter(torch.zeros(heads * value)) if block.gate_bias else None
        self.A_log, self.dt_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.empty(heads * key))
        with torch.no_grad():
            if block.lower_bound is None:
                self.A_log.copy_(log_rates(heads, 1, 16))
            self.dt_bias.copy_(log_uniform_steps(heads * key))

    @property
    def inputs(self) -> Sequence[nn.Linear]:
        return [self.f_b, self.g_b] if self.f_a is None or self.g_a is None else [self.f_a, self.g_a]

    @property
    def raising(self) -> Sequence[nn.Linear]:
        return () if self.f_a is None else (self.f_b, self.g_b)

    def gate_of(self, given: Sequence[Tensor]) -> Tensor:
        return given[1] if self.gate_bias is None else given[1] + self.gate_bias
