"""Gated DeltaNet (arXiv 2412.06464): a matrix memory that forgets, and erases at a key before it writes there.

    S_t = a_t (1 - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t
    a_t = exp(-exp(A_log) softplus(a(x) + dt_bias))    beta_t = sigmoid(b(x))    y = out(norm(o) * silu(gate(x)))

with q, k and v behind a short convolution and SiLU, q and k of length 1 (ops/delta_layer.py, ops/delta_rule.py). As
published: Qwen3-Next `gdn(heads=32,key_heads=16,head=128,value=128,norm_eps=1e-6,start=qwen)`, OLMo-Hybrid
`gdn(allow_neg_eigval=true)`, fla's layer `gdn(heads=6,head=256)` at width 2048.

Letters: B batch, T tokens, D width, H value heads, J key heads, K and V width of a key and a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hybridkit.block import Dims, Linear, Start, set_to, small_init_
from hybridkit_blocks.ops.decay_starts import SLOW, log_rates, log_uniform_steps
from hybridkit_blocks.ops.delta_block import DeltaBlock, DeltaSizes
from hybridkit_blocks.ops.delta_layer import GATES, DeltaLayer
from hybridkit_blocks.ops.delta_pairs import HeadPairs
from hybridkit_blocks.ops.delta_rule import chunk_products
from hybridkit_blocks.ops.joined import WideLinear


class Gdn(DeltaBlock):
    """Gated DeltaNet: a matrix memory of constant size that erases before it writes; `heads` defaults to the model's.

    `heads` are value heads, `key_heads` divide them; a key has `head` numbers (default 3/4 of the width over the heads)
    and a value `value` (default twice that), which makes 6 D^2 weights. `conv` is the tokens that the convolution sees.
    `allow_neg_eigval` lets beta reach 2. `start=qwen` begins with dt_bias 1, else with steps between .001 and .1.
    """

    rates: ClassVar[int] = 2
    gate: Literal["silu", "sigmoid", "none"] = "silu"
    start: Literal["fla", "qwen"] = "fla"

    def default_head(self, width: int, heads: int) -> int:
        return max(1, 3 * width // (4 * heads))

    def default_value(self, key: int) -> int:
        return 2 * key

    def projections(self, dims: Dims) -> list[tuple[int, int]]:
        *_, values = channels = self.sizes(dims).channels
        gate = () if self.gate == "none" else (values,)
        return [(dims.width, outputs) for outputs in (*channels, *gate)] + [(values, dims.width)]

    def chunk_products(self, sizes: DeltaSizes, tokens: int) -> int:
        return chunk_products(sizes.heads, sizes.key, sizes.value, tokens, HeadPairs.count)

    def neutral(self, sizes: DeltaSizes, dims: Dims, like: Tensor) -> Sequence[Start]:
        """A token decays the memory by 2^-.1. The gate's weights are 0: with SiLU, the layer adds nothing yet."""
        starts = [
            set_to("a.weight", like.new_zeros(sizes.heads, dims.width)),
            set_to("A_log", like.new_full((sizes.heads,), SLOW)),
            set_to("dt_bias", like.new_zeros(sizes.heads)),
        ]
        gate = set_to("gate.weight", like.new_zeros(sizes.channels[2], dims.width))
        return starts if self.gate == "none" else [*starts, gate]

    def build(self, dims: Dims) -> GdnLayer:
        return GdnLayer(self, dims)


class GdnLayer(DeltaLayer):
    """The built Gated DeltaNet."""

    def __init__(self, block: Gdn, dims: Dims) -> None:
        super().__init__(block, dims)
        heads = self.sizes.heads
        self.a = WideLinear(dims.width, heads)
        self.gate = None if block.gate == "none" else Linear(dims.width, self.sizes.channels[2], bias=False)
        self.activation = GATES.get(block.gate)
        for linear in self.inputs:
            small_init_(linear.weight)
        lowest, steps = (0.01, torch.ones(heads)) if block.start == "qwen" else (0.0, log_uniform_steps(heads))
        self.A_log, self.dt_bias = (nn.Parameter(torch.empty(heads)) for _ in range(2))
        with torch.no_grad():
            self.A_log.copy_(log_rates(heads, lowest, 16))
            self.dt_bias.copy_(steps)

    @property
    def inputs(self) -> Sequence[nn.Linear]:
        return [self.a] if self.gate is None else [self.a, self.gate]

    def gate_of(self, given: Sequence[Tensor]) -> Tensor | None:
        return None if self.activation is None else given[1]
