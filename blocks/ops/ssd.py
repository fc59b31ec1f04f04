"""The scan of Mamba-2 (state space duality, SSD) in chunkwise form: any length, carried states and packed documents.

The recurrence (Mamba-2, arXiv 2405.21060, section 6), for one head, with a_t = exp(l_t):

    S_t = a_t S_{t-1} + dt_t x_t B_t^T            y_t = S_t C_t + D x_t

S is P x N; heads of a group share B and C. Cut into chunks of L tokens, the states at chunk borders come from one short
scan, all else is matrix products over many chunks at once (ssd_span.py), heads of a group in one. A document starts
from S = 0: inside a chunk, pairs of tokens from two documents are masked.

The gradient keeps the states at chunk borders and the outputs without a token's own part; pairs are computed again.

Letters: B batch, T tokens, H heads, P width of a head, G groups, N width of a state's row; further ones in ssd_span.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops import ssd_span as span
from hybridkit_blocks.ops.operators import operator
from hybridkit_blocks.ops.precision import no_autocast, wide
from hybridkit_blocks.ops.spans import span_elements

MAX_CHUNK = 64  # L at most
SPAN_ELEMENTS = 2**19  # elements of a work tensor at most


def ssd(
    mixed: Tensor,  # (B, T, H P + 2 G N): x, B and C
    dt: Tensor,  # (B, T, H), positive
    log_a: Tensor,  # (B, T, H), not positive
    skip: Tensor,  # (H,): D
    state: Tensor,  # (B, H, P, N)
    document_starts: Tensor | None = None,  # (B, T) bool
) -> tuple[Tensor, Tensor]:
    """y (B, T, H, P) in the type of `mixed`, and S after the last token. Both can be differentiated, once."""
    run = _operator if torch.compiler.is_compiling() else _Chunkwise.apply
    with no_autocast(mixed):
        y, after = run(mixed, dt, log_a, skip, state, document_starts)
    return y, after


def decay(
    A_log: Tensor, dt_bias: Tensor, lowest: float, highest: float | None
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function from dt before the softplus (., H) to step sizes within bounds, and log a; both fp32 at least."""
    kind = wide(A_log.dtype)
    rate = A_log.to(kind).exp().neg()

    def run(dt: Tensor) -> tuple[Tensor, Tensor]:
        dt = F.softplus(dt.to(kind) + dt_bias)
        if lowest or highest is not None:
            dt = dt.clamp(lowest, highest)
        return dt, dt * rate

    return run


def step_(
    mixed: Tensor,  # (B, H P + 2 G N)
    dt: Tensor,  # (B, H)
    log_a: Tensor,  # (B, H)
    skip: Tensor,  # (H,)
    state: Tensor,  # (B, H, P, N), changed in place
) -> Tensor:
    """One token: y (B, H, P). All are of the state's type."""
    batch, heads, width, keys = state.shape
    groups = groups_of(mixed, state)
    x, b, c = mixed.split([heads * width, groups * keys, groups * keys], -1)
    x, rows = x.view(batch, heads, width), state.view(batch * groups, -1, keys)
    state.mul_(log_a.exp()[..., None, None])
    given = (x * dt[..., None]).view(*rows.shape[:2], 1)
    rows.addcmul_(given, b.reshape(batch * groups, 1, keys))
    y = torch.bmm(c.reshape(batch * groups, 1, keys), rows.mT)  # S C^T would be nine times slower for many rows
    return y.view(x.shape).addcmul_(x, skip.to(x.dtype)[:, None])


def ssd_tiles(tokens: int) -> tuple[int, int]:
    """How many chunks cover `tokens`, and how many tokens each holds: as even as they can be, to pad the least."""
    chunks = -(-tokens // MAX_CHUNK)
    return chunks, -(-tokens // chunks)


class _Chunkwise(torch.autograd.Function):
    """y and the state after it, span by span, so that work tensors stay small however long the sequence is."""

    @staticmethod
    def forward(
        ctx: Any,
        mixed: Tensor,
        dt: Tensor,
        log_a: Tensor,
        skip: Tensor,
        state: Tensor,
        document_starts: Tensor | None,
    ) -> Any:
        cut, kept = _Cut(mixed, state), []
        inputs, memory, D = cut.inputs(mixed, dt, log_a, document_starts), cut.rows(state), cut.heads(skip)
        r, y = cut.empty(state.shape[1:3]), cut.empty(state.shape[1:3])
        for part in cut.parts:
            states = span.forward(span.part(inputs, part), D, memory, cut.chunks(r)[part], cut.chunks(y)[part])
            memory = states[-1]
            kept += [states] if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(mixed, dt, log_a, skip, state, document_starts, r, *kept)
        return y[:, : cut.tokens].to(mixed.dtype), cut.state(memory)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        with no_autocast(outputs[0]):
            return _Chunkwise.gradient(ctx, *outputs)

    @staticmethod
    def gradient(ctx: Any, dy: Tensor, dstate: Tensor) -> Any:
        """Gradients of all inputs of `forward`, from those of its outputs."""
        # read once: under checkpointing every access computes them again
        mixed, dt, log_a, skip, state, document_starts, r, *kept = ctx.saved_tensors
        cut = _Cut(mixed, state)
        inputs, memory, D = cut.inputs(mixed, dt, log_a, document_starts), cut.rows(dstate), cut.heads(skip)
        dmixed, ddt, dlog = grads = [cut.empty(t.shape[2:]) for t in (mixed, dt, log_a)]
        made, slope, r = cut.inputs(dmixed, ddt, dlog, None), cut.chunks(cut.pad(dy)), cut.chunks(r)
        for part, states in zip(reversed(cut.parts), reversed(kept), strict=True):
            given = span.part(inputs, part), D, states, slope[part], r[part], memory
            memory = span.backward(*given, span.part(made, part))
        found = [grad[:, : cut.tokens].to(t.dtype) for grad, t in zip(grads, (mixed, dt, log_a), strict=True)]
        dskip = (dy.to(cut.kind) * cut.x(mixed)).sum((0, 1, 3))
        return *found, dskip.to(skip.dtype), cut.state(memory), None


_INPUTS = "Tensor mixed, Tensor dt, Tensor log_a, Tensor skip, Tensor state, Tensor? document_starts"
_operator = operator("ssd", _Chunkwise, _INPUTS, outputs=2)


class _Cut:
    """How a sequence is cut into chunks, padded with zeros, which change nothing; and chunks are taken in spans."""

    def __init__(self, mixed: Tensor, state: Tensor) -> None:
        batch, heads, width, keys = self.shape = state.shape
        self.tokens, self.kind, self.groups = mixed.shape[1], state.dtype, groups_of(mixed, state)
        self.device, (chunks, self.length) = state.device, ssd_tiles(self.tokens)
        self.padded = chunks * self.length
        self.sections = [heads * width, self.groups * keys, self.groups * keys]
        most = span_elements(mixed, SPAN_ELEMENTS)
        step = max(1, most // (batch * heads * max(width * keys, self.length**2, width * self.length)))
        self.parts = [slice(begin, begin + step) for begin in range(0, chunks, step)]

    def inputs(self, mixed: Tensor, dt: Tensor, log_a: Tensor, document_starts: Tensor | None) -> span.Inputs:
        """All inputs, or buffers for their gradients, in chunks."""
        mixed, dt, log_a = (self.pad(t) for t in (mixed, dt, log_a))
        x, b, c = mixed.split(self.sections, -1)
        x, b, c = x.unflatten(-1, self.shape[1:3]), *(t.unflatten(-1, (self.groups, -1)) for t in (b, c))
        x, dt, log_a, b, c = (self.chunks(t) for t in (x, dt, log_a, b, c))
        marks = document_starts
        if marks is not None:
            marks = self.pad(marks).unflatten(1, (-1, self.length)).movedim(1, 0)
        return span.Inputs(x, dt, log_a, b.squeeze(4), c.squeeze(4), marks)

    def chunks(self, t: Tensor) -> Tensor:
        """Padded (B, N L, H, .) as chunks (N, B, G, L, J, .), a view; (B, N L, G, .) with J = 1."""
        return t.unflatten(2, (self.groups, -1)).unflatten(1, (-1, self.length)).movedim(1, 0).transpose(2, 3)

    def pad(self, t: Tensor) -> Tensor:
        """(B, T, .) to (B, N L, .)."""
        spare = self.padded - t.shape[1]
        return F.pad(t, (0, 0) * (t.dim() - 2) + (0, spare)) if spare else t

    def empty(self, shape: Sequence[int]) -> Tensor:
        """An uninitialised (B, N L, .) in the type of sums."""
        return torch.empty(self.shape[0], self.padded, *shape, dtype=self.kind, device=self.device)

    def heads(self, skip: Tensor) -> Tensor:
        """A number for each head (H,) as (G, 1, J), in the type of sums."""
        return skip.to(self.kind).view(self.groups, 1, -1)

    def x(self, mixed: Tensor) -> Tensor:
        """x (B, T, H, P) of a tensor that holds x, B and C."""
        return mixed[..., : self.sections[0]].unflatten(-1, self.shape[1:3])

    def rows(self, state: Tensor) -> Tensor:
        """S (B, H, P, N) as rows (R, N, E), the heads of a group side by side."""
        return state.unflatten(1, (self.groups, -1)).movedim(-1, 2).flatten(3).flatten(0, 1).contiguous()

    def state(self, rows: Tensor) -> Tensor:
        """Rows (R, N, E) back to S (B, H, P, N), in memory of its own."""
        batch, _, width, keys = self.shape
        return rows.view(batch, self.groups, keys, -1, width).movedim(2, -1).flatten(1, 2).contiguous()


def groups_of(mixed: Tensor, state: Tensor) -> int:
    """G, from x, B and C (., H P + 2 G N) and S (B, H, P, N)."""
    _, heads, width, keys = state.shape
    return (mixed.shape[-1] - heads * width) // (2 * keys)
