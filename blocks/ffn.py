"""Gated feed-forward network with SiLU: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).

`ffn` has width 8/3 of the model's, rounded up to a multiple of 64; `ffn(width=5632)` says its own.
B batch, T tokens, D width, F width between.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import Block, Count, Dims, Layer, State, Step, small_init_, wang_init_
from hybridkit_blocks._packed import Unit, product, residual, side_by_side


class FeedForward(Block):
    """Two projections up, one gating the other, and one down."""

    mixes: ClassVar[bool] = False
    width: int | None = Field(None, ge=1)

    def inner(self, dims: Dims) -> int:
        """The width between: an exact 8/3 is rounded up to a multiple of 64."""
        return self.width or -(-8 * dims.width // 192) * 64

    def build(self, dims: Dims) -> Layer:
        return SwiGLU(dims, self.inner(dims))

    def flops(self, dims: Dims, tokens: int, window: int | None = None, count: Count = "exact") -> int:
        return 6 * tokens * dims.width * self.inner(dims)


class SwiGLU(Layer):
    """down(silu(gate(x)) * up(x)), without biases and without state."""

    def __init__(self, dims: Dims, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dims.width, inner, bias=False)
        self.up = nn.Linear(dims.width, inner, bias=False)
        self.down = nn.Linear(inner, dims.width, bias=False)
        small_init_(self.gate.weight)
        small_init_(self.up.weight)
        wang_init_(self.down.weight, dims)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: int | Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        return self.down(F.silu(self.gate(x)) * self.up(x)), ()

    def decoder(self, norm: nn.RMSNorm, rows: int) -> Step:
        up, unit = product(side_by_side(norm, [self.gate.weight, self.up.weight]), rows), Unit(norm)
        down = residual(self.down.weight, rows)

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            x = x[:, 0]
            gate, value = up(unit(x)).chunk(2, -1)
            return down(x, F.silu(gate).mul_(value))[:, None], state

        return run
