"""RG-LRU, a gated linear recurrence: the whole recurrent block of Griffin (arXiv 2402.19427), as in RecurrentGemma.

    u = conv(linear_x(x))              r, i = sigmoid(rgate(u)), sigmoid(igate(u))      block-diagonal maps
    log a = -8 r softplus(decay)       h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t u_t
    out = linear_out(h * gelu(linear_y(x)))

for every channel, in fp32 at least. A document's first token has h = i u: no h comes before it, and the root is taken
as 1. The state therefore also says whether any token has come. The recurrence is in ops/gated_recurrence.py. The model
adds the pre-norm and the residual.

Letters: B batch, T tokens, D width, W width of the recurrence, H heads, w = W / H, K taps of the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridkit.block import (
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    Linear,
    SequenceParallel,
    State,
    StepFunction,
    normal_,
    packed,
    product_flops,
)
from hybridkit_blocks.ops.convolution import (
    Convolution,
    convolution_flops,
    convolution_reference,
    convolution_state,
)
from hybridkit_blocks.ops.gated_recurrence import rates, recurrence
from hybridkit_blocks.ops.precision import wide

RADII = 0.9, 0.999  # the range of the initial a at r = 1/8, exp(-softplus(decay)), whose square is uniform
VARIANCE = 0.01  # of what convolution and gates compute at first from inputs of variance 1


class RglruState(NamedTuple):
    """What an RG-LRU carries: past inputs of the convolution, h, and whether any token came before (0 or 1)."""

    conv: Tensor  # (B, K - 1, W)
    h: Tensor  # (B, W), at least fp32
    begun: Tensor  # (B, 1), h's type


class Rglru(Block):
    """RG-LRU (Griffin, RecurrentGemma): a gated recurrence a channel, of `width` channels in `heads` gate blocks.

    `heads` and `width` default to the model's; `conv` is the number of the convolution's taps.
    """

    differentiable_state: ClassVar[bool] = True
    heads: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    conv: int = Field(4, ge=1)

    def resolved(self, dims: Dims) -> Self:
        heads, width = self._sizes(dims)
        return self.model_copy(update={"heads": heads, "width": width})

    def build(self, dims: Dims) -> RglruLayer:
        return RglruLayer(dims, *self._sizes(dims), self.conv)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        """Linear layers, gates, the convolution, and a multiply-add a channel for the recurrence."""
        heads, width = self._sizes(dims)
        multiply = product_flops(count)
        linear = 2 * multiply(tokens, dims.width, width) + multiply(tokens, width, dims.width)
        cell = 2 * tokens * width * (2 * (width // heads) + 1)
        return linear + cell + convolution_flops(width, self.conv, tokens)

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object]:
        heads, width = self._sizes(dims)
        each, convolution = width // heads, convolution_reference(width, self.conv, tokens)
        u, gates = torch.zeros(heads, tokens, each), torch.zeros(2, heads, each, each)
        h, a = torch.zeros(width, 1, 1), torch.zeros(width, 1, tokens)
        return lambda: (convolution(), u @ gates[0], u @ gates[1], h @ a)

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RglruState:
        """An empty state: W numbers a sequence, at least fp32, and K - 1 inputs of each channel."""
        width, kind = self._sizes(dims)[1], wide(dtype or torch.get_default_dtype())
        held = (torch.zeros(batch, size, device=device, dtype=kind) for size in (width, 1))
        return RglruState(convolution_state(batch, width, self.conv, device, dtype), *held)

    def _sizes(self, dims: Dims) -> tuple[int, int]:
        """H and W. Raises ValueError unless the heads divide the width."""
        heads, width = self.heads or dims.heads, self.width or dims.width
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, min(width, 64) + 1) if width % n == 0)
            raise ValueError(f"rglru: {heads} heads do not divide the width {width}; heads may be {fitting}")
        return heads, width


class BlockLinear(nn.Module):
    """A block-diagonal linear map with a bias: each head's outputs depend on that head's channels alone."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        each = width // heads
        self.weight = nn.Parameter(torch.empty(heads, each, each))
        normal_(self.weight, std=(VARIANCE / each) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, u: Tensor, parallel: SequenceParallel) -> Tensor:
        """(B, T, H, w) of own heads to (B, T, H, w), of which each head's part lies together in memory."""
        (batch, tokens), by_head = u.shape[:2], u.flatten(0, 1).transpose(0, 1)  # (H, B T, w)
        bias = self.bias.view(len(self.weight), 1, -1)
        made = torch.baddbmm(parallel.own_heads(bias), by_head, parallel.own_heads(self.weight))
        return made.unflatten(1, (batch, tokens)).permute(1, 2, 0, 3)


class RglruLayer(Layer):
    """The built recurrent block: `forward` for any stretch of tokens, `step` for one, in place."""

    supports_sequence_parallel = True

    def __init__(self, dims: Dims, heads: int, width: int, taps: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_x = Linear(dims.width, width)
        self.linear_y = Linear(dims.width, width)
        self.conv = Convolution(width, taps, bias=True)
        self.igate = BlockLinear(heads, width)
        self.rgate = BlockLinear(heads, width)
        self.decay = nn.Parameter(torch.empty(width))
        self.linear_out = Linear(width, dims.width)
        self._start(dims, width, taps)

    @torch.no_grad()
    def _start(self, dims: Dims, width: int, taps: int) -> None:
        """Initial weights of RecurrentGemma."""
        if self.decay.is_meta:  # holds no numbers (block/init.py)
            return
        for linear, std in (
            (self.linear_x, dims.width**-0.5),
            (self.linear_y, dims.width**-0.5),
            (self.linear_out, (2 / dims.depth / width) ** 0.5),
            (self.conv, (VARIANCE / taps) ** 0.5),
        ):
            normal_(linear.weight, std=std)
            assert linear.bias is not None
            nn.init.zeros_(linear.bias)
        self.decay.uniform_(*(radius**2 for radius in RADII)).log_().mul_(-0.5).expm1_().log_()

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, RglruState]:
        """(B, T, D) to (B, T, D) and the state after it. Raises ValueError for a window: an RG-LRU has none."""
        if window is not None:
            raise ValueError("rglru has no window; leave it out")
        parallel, held = self.sequence_parallel, RglruState(*state) if state else None
        u = parallel.gather(self.linear_x(x).unflatten(-1, (self.heads, -1)))
        made, conv = self.conv(u.flatten(-2), held.conv if held else None, document_starts, self._own)
        u, decay = made.view_as(u), self._own(self.decay)
        h = held.h if held else u.new_zeros(len(u), len(decay), dtype=wide(u.dtype))
        begins = _begins(len(u), u.device, held.begun if held else None, document_starts)
        h, after = recurrence(u, self.igate(u, parallel), self.rgate(u, parallel), decay, h, begins)
        h = parallel.scatter(h.view_as(u)).flatten(-2)
        y = self.linear_out(h * F.gelu(self.linear_y(x), approximate="tanh"))
        return y.to(x.dtype), RglruState(conv, after, torch.ones_like(after[:, :1]))

    def _own(self, t: Tensor) -> Tensor:
        """What belongs to own heads of a tensor of all channels (W, .)."""
        return self.sequence_parallel.own_heads(t.unflatten(0, (self.heads, -1))).flatten(0, 1)

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, RglruState]:
        """One token (B, 1, D); `state` is updated in place and returned. For inference: it has no gradient."""
        held, x = RglruState(*state), x[:, 0]
        h = self._token()(self.linear_x(x), held).to(x.dtype)
        y = self.linear_out(h * F.gelu(self.linear_y(x), approximate="tanh"))
        return y.to(x.dtype)[:, None], held

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        token, bias = self._token(), torch.cat([self.linear_x.bias, self.linear_y.bias])
        project = packed.normed_product(norm, [self.linear_x.weight, self.linear_y.weight], rows, bias)
        out = packed.output(norm, self.linear_out.weight, rows, self.linear_out.bias)

        def run(x: Tensor, state: State) -> tuple[Tensor, RglruState]:
            held, x = RglruState(*state), x[:, 0]
            u, y = project(x).chunk(2, -1)
            return out(x, F.gelu(y, approximate="tanh") * token(u, held).to(x.dtype))[:, None], held

        return run

    def _token(self) -> Callable[[Tensor, RglruState], Tensor]:
        """A function of one token from linear_x(x) (B, W) to h (B, W); the state is moved on in place."""
        mix, kind, heads = self.conv.stepper(), wide(self.decay.dtype), self.heads
        maps = self.igate, self.rgate
        weight = torch.cat([part.weight for part in maps], -1).to(kind)  # (H, w, 2 w)
        bias = torch.cat([part.bias.view(heads, 1, -1) for part in maps], -1).to(kind)
        rate = rates(self.decay, kind).view(heads, 1, -1)

        def run(u: Tensor, held: RglruState) -> Tensor:
            u, h = (t.view(len(t), heads, -1).transpose(0, 1) for t in (mix(u, held.conv), held.h))  # (H, B, w)
            i, r = torch.baddbmm(bias, u, weight).sigmoid_().chunk(2, -1)
            log_a = r * rate
            h.mul_(log_a.exp())
            root = log_a.mul_(2).expm1_().neg_().sqrt_()
            h.addcmul_(torch.maximum(root, 1 - held.begun, out=root).mul_(i), u)
            held.begun.fill_(1)
            return held.h

        return run


def _begins(batch: int, device: torch.device, begun: Tensor | None, document_starts: Tensor | None) -> Tensor:
    """Where a document begins (B, T), or (B, 1) where at most the first token begins one."""
    first = torch.ones(batch, 1, dtype=torch.bool, device=device) if begun is None else begun == 0
    if document_starts is None:
        return first
    return torch.cat([document_starts[:, :1] | first, document_starts[:, 1:]], 1)
