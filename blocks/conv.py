"""A gated short convolution: the mixer that LFM2 puts beside attention (Liquid AI, transformers' Lfm2ShortConv).

    y = out(c * conv(b * u))      b, c, u = input(x)

conv is causal and depthwise: each channel becomes a weighted sum of its last `kernel_size` values, with own weights.
The state is the last kernel_size - 1 products b * u. The model adds the pre-norm and the residual.

Letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridkit.block import (
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    Linear,
    State,
    StepFunction,
    packed,
    product_flops,
    small_init_,
    wang_init_,
)
from hybridkit_blocks.ops.convolution import (
    Convolution,
    convolution_flops,
    convolution_reference,
    convolution_state,
)
from hybridkit_blocks.ops.precision import wide


class ConvState(NamedTuple):
    """What a convolution carries: its last inputs (B, kernel_size - 1, D), oldest first, in the model's type."""

    inputs: Tensor


class Conv(Block):
    """Gated short convolution (LFM2): each channel sees its last `kernel_size` tokens.

    `bias` gives the convolution and both projections one.
    """

    differentiable_state: ClassVar[bool] = True
    kernel_size: int = Field(3, ge=1)
    bias: bool = False

    def build(self, dims: Dims) -> ConvLayer:
        return ConvLayer(dims, self.kernel_size, self.bias)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers, and the convolution's taps, 2 a channel and token each."""
        multiply, width = product_flops(count), dims.width
        linear = multiply(tokens, width, 3 * width) + multiply(tokens, width, width)
        return linear + convolution_flops(width, self.kernel_size, tokens)

    def reach(self, window: GivenWindow = None) -> int:
        return self.kernel_size

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object]:
        return convolution_reference(dims.width, self.kernel_size, tokens)

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ConvState:
        """No inputs yet: (kernel_size - 1) D numbers a sequence, however many tokens."""
        return ConvState(convolution_state(batch, dims.width, self.kernel_size, device, dtype))


class ConvLayer(Layer):
    """The built convolution: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True

    def __init__(self, dims: Dims, kernel_size: int, bias: bool) -> None:
        super().__init__()
        self.input = Linear(dims.width, 3 * dims.width, bias=bias)  # b, c, u
        self.conv = Convolution(dims.width, kernel_size, bias)
        self.out = Linear(dims.width, dims.width, bias=bias)
        small_init_(self.input.weight)
        wang_init_(self.out.weight, dims)
        for linear in (self.input, self.out) if bias else ():
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, ConvState]:
        """(B, T, D) to (B, T, D) and the inputs that later tokens see. Raises ValueError for a window: it has none."""
        if window is not None:
            raise ValueError("conv has no window; leave it out, or choose kernel_size")
        parallel, (b, c, u) = self.sequence_parallel, self._split(self.input(x))
        given = parallel.gather((b * u)[..., None])[..., 0]  # a channel is a head here
        before = ConvState(*state).inputs if state else None
        y, after = self.conv(given, before, document_starts, parallel.own_heads)
        y = c * parallel.scatter(y[..., None])[..., 0]
        return self.out(y.to(x.dtype)).to(x.dtype), ConvState(after.to(x.dtype))

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, ConvState]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        held, (b, c, u) = ConvState(*state), self._split(self.input(x[:, 0]))
        y = self.conv.step(b * u, held.inputs).mul_(c)
        return self.out(y.to(x.dtype))[:, None].to(x.dtype), held

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        project = packed.normed_product(norm, [self.input.weight], rows, self.input.bias)
        mix, out = self.conv.stepper(), packed.output(norm, self.out.weight, rows, self.out.bias)

        def run(x: Tensor, state: State) -> tuple[Tensor, ConvState]:
            held, x = ConvState(*state), x[:, 0]
            b, c, u = self._split(project(x))
            return out(x, mix(b * u, held.inputs).mul_(c).to(x.dtype))[:, None], held

        return run

    @staticmethod
    def _split(given: Tensor) -> tuple[Tensor, ...]:
        """b, c and u (..., D) from what `input` gives, at least fp32: their products are rounded once, at the end."""
        return given.to(wide(given.dtype)).chunk(3, -1)
