"""Feed-forward networks as layers: gated with SiLU in few passes over memory, and any other.

B batch, T tokens, N = B T, D width, F inner width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hybridkit.block import (
    Dims,
    GivenWindow,
    Layer,
    Linear,
    State,
    StepFunction,
    linear,
    packed,
    pad_weight,
    padded_width,
    small_init_,
    spare,
    wang_init_,
)
from hybridkit_blocks.ops.activation import ActivationOptions
from hybridkit_blocks.ops.custom_autograd import product_type

SLICE = 1024  # tokens in fp32: fewer make slower products, more gain little (measured for F of 384, 704 and 2752)


def network(dims: Dims, inner: int, options: ActivationOptions) -> Layer:
    """The layer with this inner width and these options."""
    plain = options.clip is None and not options.bias and options.gate_scale == 1
    usual = options.act == "silu" and options.gated and plain
    return SwiGLU(dims, inner) if usual else Network(dims, inner, options)


class Network(Layer):
    """down(f(gate(x)) * up(x)) or down(f(up(x))), with any function, and biases where the block says so."""

    def __init__(self, dims: Dims, inner: int, options: ActivationOptions) -> None:
        super().__init__()
        self._hidden = options.hidden
        self.gate = Linear(dims.width, inner, bias=options.bias) if options.gated else None
        self.up = Linear(dims.width, inner, bias=options.bias)
        self.down = Linear(inner, dims.width, bias=options.bias)
        for part in self.into:
            small_init_(part.weight)
        wang_init_(self.down.weight, dims)
        for part in (*self.into, self.down):
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    @property
    def into(self) -> list[nn.Linear]:
        """The projections of the input."""
        return [self.up] if self.gate is None else [self.gate, self.up]

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        made = torch.cat([part(x) for part in self.into], -1)
        return self.down(self._hidden(made)).to(x.dtype), ()

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        biases: list[Tensor] = [part.bias for part in self.into if part.bias is not None]
        bias = torch.cat(biases) if biases else None
        up = packed.normed_product(norm, [part.weight for part in self.into], rows, bias)
        down, hidden = packed.output(norm, self.down.weight, rows, self.down.bias), self._hidden

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            x = x[:, 0]
            return down(x, hidden(up(x)))[:, None], state

        return run


class SwiGLU(Layer):
    """down(silu(gate(x)) * up(x)), without biases and without state."""

    def __init__(self, dims: Dims, inner: int) -> None:
        super().__init__()
        self.gate = Linear(dims.width, inner, bias=False)
        self.up = Linear(dims.width, inner, bias=False)
        self.down = Linear(inner, dims.width, bias=False)
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
        if kind := product_type(x, down):  # cast here: what is cast is known (hybridkit.training.bf16_weights)
            return _InSlices.apply(*(t.to(kind) for t in (x, gate, up, down))).to(x.dtype), ()
        return linear(F.silu(linear(x, gate)) * linear(x, up), down).to(x.dtype), ()

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        inner = len(self.gate.weight)
        more = padded_width(inner) - inner if packed.on_gpu(self.gate.weight) else 0  # here once, not a token at a time
        gates = [pad_weight(part.weight, rows=more) for part in (self.gate, self.up)]
        up = packed.normed_product(norm, gates, rows)
        down = packed.output(norm, pad_weight(self.down.weight, columns=more), rows)

        def run(x: Tensor, state: State) -> tuple[Tensor, State]:
            x = x[:, 0]
            gate, value = up(x).chunk(2, -1)
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
        y, length = torch.empty_like(rows), min(_length(rows), len(rows))
        keeps = any(ctx.needs_input_grad)  # else all slices use the same memory
        gates, ups = (rows.new_empty(len(rows) if keeps else length, len(gate)) for _ in range(2))
        room = gates.new_empty(length, len(gate))
        for index, (x_, y_) in enumerate(_cuts(rows, y)):
            begin = index * length if keeps else 0
            at = slice(begin, begin + len(x_))
            g, u = torch.mm(x_, gate.t(), out=gates[at]), torch.mm(x_, up.t(), out=ups[at])
            torch.mm(_silu(g, room[: len(g)]).mul_(u), down.t(), out=y_)
        ctx.save_for_backward(rows, gates, ups, gate, up, down)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        rows, gates, ups, gate, up, down = ctx.saved_tensors
        several = len(rows) > _length(rows)
        kind = torch.promote_types(rows.dtype, torch.float32) if several else rows.dtype  # of sums over slices
        dx, weights = torch.empty_like(rows), (gate, up, down)
        dgate, dup, ddown = sums = [torch.zeros_like(weight, dtype=kind) for weight in weights]
        rooms = gates.new_empty(3, min(_length(rows), len(rows)), len(gate))
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
        return dx.view_as(grads[0]), *(total.to(rows.dtype) for total in sums)


def _cuts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices of (N, .)."""
    return zip(*(tensor.split(_length(tensors[0])) for tensor in tensors), strict=True)


def _length(rows: Tensor) -> int:
    """Tokens of a slice: twice as many in bf16, which has half the bytes of fp32."""
    return SLICE * 4 // min(4, rows.element_size())


def _plus(x: Tensor, a: Tensor, b: Tensor) -> None:
    """x += a @ b, as an operation that FLOP counters know; x may be of a wider type."""
    if x.dtype == a.dtype:
        torch.addmm(x, a, b, out=x)
    else:
        x.add_(torch.mm(a, b))


def _silu(x: Tensor, out: Tensor) -> Tensor:
    """`F.silu` into an existing tensor."""
    made: Tensor = torch.ops.aten.silu.out(x, out=out)
    return made
