"""Gated feed-forward network with SiLU: down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).

`ffn` has width 8/3 of the model's, rounded up to a multiple of 64; `ffn(width=5632)` says its own.
B batch, T tokens, N = B T, D width, F inner width.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hybridkit.block import (
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    State,
    StepFunction,
    linear,
    pad_weight,
    padded_product,
    small_init_,
    spare,
    wang_init_,
)
from hybridkit_blocks.ops.cpu.packed import Unit, product, residual, side_by_side
from hybridkit_blocks.ops.custom_autograd import custom_autograd

SLICE = 1024  # tokens: fewer make slower products, more gain little (measured for F of 384, 704 and 2752)


class FeedForward(Block):
    """Two projections up, one gating the other, and one down."""

    is_mixer: ClassVar[bool] = False
    width: int | None = Field(None, ge=1)

    def inner(self, dims: Dims) -> int:
        """The inner width: where none is given, 8/3 of the model's, rounded up to a multiple of 64."""
        return self.width or -(-8 * dims.width // 192) * 64

    def resolved(self, dims: Dims) -> Self:
        return self.model_copy(update={"width": self.inner(dims)})

    def build(self, dims: Dims) -> Layer:
        return SwiGLU(dims, self.inner(dims))

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        if count == "hardware":
            return 3 * padded_product(tokens, dims.width, self.inner(dims))
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
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        more = spare(len(self.gate.weight), x)  # the inner width, at which all three products meet
        gate, up = (pad_weight(part.weight, rows=more) for part in (self.gate, self.up))
        down = pad_weight(self.down.weight, columns=more)
        if custom_autograd(x, down):
            return _InSlices.apply(x, gate, up, down), ()
        return linear(F.silu(linear(x, gate)) * linear(x, up), down).to(x.dtype), ()

    def decoder(self, norm: nn.RMSNorm, rows: int) -> StepFunction:
        up, unit = product(side_by_side(norm, [self.gate.weight, self.up.weight]), rows), Unit(norm)
        down = residual(self.down.weight, rows)

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            x = x[:, 0]
            gate, value = up(unit(x)).chunk(2, -1)
            return down(x, F.silu(gate).mul_(value))[:, None], state

        return run


class _InSlices(torch.autograd.Function):
    """From x (B, T, D) and the weights to y (B, T, D), a slice of tokens at a time, so that results are still in the
    cache when they are used.

    Keeps gate(x) and up(x), 2 F numbers a token; the gradient computes their SiLU and product again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        gates, ups = (rows.new_empty(len(rows), len(gate)) for _ in range(2))
        y, room = torch.empty_like(rows), gates.new_empty(min(SLICE, len(rows)), len(gate))
        for x_, g, u, y_ in _cuts(rows, gates, ups, y):
            torch.mm(x_, gate.t(), out=g)
            torch.mm(x_, up.t(), out=u)
            torch.mm(_silu(g, room[: len(g)]).mul_(u), down.t(), out=y_)
        ctx.save_for_backward(rows, gates, ups, gate, up, down)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        rows, gates, ups, gate, up, down = ctx.saved_tensors
        dx, (dgate, dup, ddown) = torch.empty_like(rows), (torch.zeros_like(weight) for weight in (gate, up, down))
        rooms = gates.new_empty(3, min(SLICE, len(rows)), len(gate))
        for x_, g, u, dx_, dy in _cuts(rows, gates, ups, dx, grads[0].reshape(rows.shape)):
            silu, first, second = rooms[:, : len(g)]
            _silu(g, silu)
            _plus(ddown, dy.t(), torch.mul(silu, u, out=first))
            dhidden = torch.mm(dy, down, out=first)
            du = silu.mul_(dhidden)
            dg = torch.ops.aten.silu_backward.grad_input(dhidden.mul_(u), g, grad_input=second)
            _plus(torch.mm(dg, gate, out=dx_), du, up)
            _plus(dgate, dg.t(), x_)
            _plus(dup, du.t(), x_)
        return dx.view_as(grads[0]), dgate, dup, ddown


def _cuts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices of (N, .)."""
    return zip(*(tensor.split(SLICE) for tensor in tensors), strict=True)


def _plus(x: Tensor, a: Tensor, b: Tensor) -> None:
    """x += a @ b, as an operation that FLOP counters know."""
    torch.addmm(x, a, b, out=x)


def _silu(x: Tensor, out: Tensor) -> Tensor:
    """`F.silu` into an existing tensor."""
    made: Tensor = torch.ops.aten.silu.out(x, out=out)
    return made
