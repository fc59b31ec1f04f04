"""Feed-forward network, by default gated with SiLU: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).

`ffn` has width 8/3 of the model's, rounded up to a multiple of 64; `ffn(width=5632)` says its own. Other functions, no
gate (`ffn(act=relu2,gated=false)`), biases: ops/activation.py.
"""

from typing import ClassVar, Self

from pydantic import Field

from hybridkit.block import Block, Count, Dims, GivenWindow, Layer, product_flops
from hybridkit_blocks.ops.activation import ActivationOptions
from hybridkit_blocks.ops.feed_forward import network


class _Sizes(Block):
    """The argument that a pattern may give without a key."""

    width: int | None = Field(None, ge=1)


class FeedForward(ActivationOptions, _Sizes):
    """Two projections up, one gating the other, and one down."""

    is_mixer: ClassVar[bool] = False

    def inner(self, dims: Dims) -> int:
        """The inner width: where none is given, 8/3 of the model's, rounded up to a multiple of 64."""
        return self.width or -(-8 * dims.width // 192) * 64

    def resolved(self, dims: Dims) -> Self:
        return self.model_copy(update={"width": self.inner(dims)})

    def build(self, dims: Dims) -> Layer:
        return network(dims, self.inner(dims), self)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        multiply = product_flops(count)
        return self.projections * multiply(tokens, dims.width, self.inner(dims))
