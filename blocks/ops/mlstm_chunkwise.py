"""The mLSTM cell in chunkwise form, for any length, carried states and packed documents, with its own gradient.

The cell (xLSTM, arXiv 2405.04517, equations 19 to 27), for one head, with f~ = logsigmoid(f):

    m_t = max(f~_t + m_{t-1}, i_t)
    C_t = exp(f~_t + m_{t-1} - m_t) C_{t-1} + exp(i_t - m_t) k_t v_t^T          n_t likewise, with 1 for v_t
    h_t = C_t^T q_t / (max(|n_t . q_t|, exp(-m_t)) + eps)                       q scaled by K^-1/2

Cut into chunks of L tokens (the form of arXiv 2503.14376): the states at chunk borders come from one short scan, all
else is matrix products over many chunks at once. A document starts from C = n = m = 0; inside a chunk,
pairs of tokens from two documents are masked, so that nothing of an earlier document enters at all.

The gradient needs no sums over pairs for the gates. With W_ts the weight of token s in h_t, the sum over s of
dL/dlog W_ts is dh_t . h_t, minus the part of the normalizer Z_t, and the sum over t is k_s . dk_s. As h depends on
m only through eps, dL/dm_t = -(dh_t . h_t) eps / (Z_t + eps), which flows to the gate that won the maximum.

Letters: B batch, H heads, T tokens, K and V width of a key and of a value; further ones in mlstm_span.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops import mlstm_span as span
from hybridkit_blocks.ops.mlstm_gates import ChunkGates
from hybridkit_blocks.ops.precision import no_autocast, wide
from hybridkit_blocks.ops.spans import span_elements

MAX_CHUNK = 64  # L at most; the fastest of 32, 64, 128 on a CPU for heads of 64 x 128, level with 32 for 32 x 64
SPAN_ELEMENTS = 2**21  # elements of a work tensor at most (docs/decisions/05-custom-autograd-on-a-cpu.md)


class MlstmState(NamedTuple):
    """What an mLSTM carries: the matrix C (B, H, K, V), the normalizer n (B, H, K) and the log scale m (B, H, 1).

    At least fp32. The true memory is exp(m) C. All zeros: empty.
    """

    C: Tensor
    n: Tensor
    m: Tensor


def mlstm_tiles(tokens: int) -> tuple[int, int]:
    """How many chunks cover `tokens`, and how many tokens each holds: as even as they can be, to pad the least."""
    chunks = -(-tokens // MAX_CHUNK)
    return chunks, -(-tokens // chunks)


def empty_state(k: Tensor, v: Tensor) -> MlstmState:
    """The memory that has seen nothing, for keys (B, H, T, K) and values (B, H, T, V)."""
    batch, heads, _, width = k.shape
    shapes = (batch, heads, width, v.shape[-1]), (batch, heads, width), (batch, heads, 1)
    return MlstmState(*(k.new_zeros(shape, dtype=wide(k.dtype)) for shape in shapes))


def chunkwise_mlstm(
    q: Tensor,  # (B, H, T, K)
    k: Tensor,  # (B, H, T, K)
    v: Tensor,  # (B, H, T, V)
    i: Tensor,  # (B, H, T), before the exponential
    f: Tensor,  # (B, H, T), before the sigmoid
    state: MlstmState | None = None,
    document_starts: Tensor | None = None,  # (B, T) bool
) -> tuple[Tensor, MlstmState]:
    """h (B, H, T, V), at least fp32, and the memory after the last token. Every output can be differentiated, once."""
    with no_autocast(q):
        h, *after = Chunkwise.apply(q, k, v, i, f, *(state or empty_state(k, v)), document_starts)
    return h, MlstmState(*after)


def recurrent_mlstm_(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, state: MlstmState) -> Tensor:
    """One token: scaled q (B, H, 1, K), k (B, H, K, 1), v (B, H, 1, V) to h (B, H, 1, V), `state` changed in place.

    `gates` (B, 3, H, 1, 1) holds i, f and zeros, and is overwritten. All are of the memory's type.
    """
    C, n, m = state
    level, column = m.unsqueeze(-1), n.unsqueeze(-1)
    write, keep, floor = gates.unbind(1)  # their final meaning; before that i, f and 0
    torch.add(F.logsigmoid(keep), level, out=keep)
    torch.maximum(keep, write, out=level)
    gates.sub_(level.unsqueeze(1)).exp_()
    written = write * k
    C.mul_(keep).addcmul_(written, v)
    torch.addcmul(written, column, keep, out=column)
    row = q.flatten(0, 1)  # a head a matrix: bmm alone, without matmul's views around it
    norm = torch.bmm(row, column.flatten(0, 1)).view(floor.shape).abs_()
    torch.maximum(norm, floor, out=norm).add_(span.EPS)
    return torch.bmm(row, C.flatten(0, 1)).view(v.shape).div_(norm)


class Chunkwise(torch.autograd.Function):
    """h and the memory after it, span by span, so that work tensors stay small however long the sequence is."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        i: Tensor,
        f: Tensor,
        C: Tensor,
        n: Tensor,
        m: Tensor,
        document_starts: Any,
    ) -> Any:
        length, width = mlstm_tiles(v.shape[2])[1], v.shape[-1]
        h = by_token(v, width, C.dtype)
        memory, last, kept = _with_n(C, n), m.flatten(), []
        for part in _spans(q, v):
            at = slice(None), slice(None), part
            x = _inputs(q[at], k[at], v[at], i[at], f[at], length)
            begun = (
                None
                if document_starts is None
                else _cut(document_starts[:, None].expand(i.shape)[at], length, torch.bool)
            )
            made, saved, g = span.forward(x, begun, memory, last, width)
            _put(h[at], made, length)
            memory, last = saved.states[-1], g.m[-1, :, -1]
            kept += [*x, *saved, *g] if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(h, *kept)  # in C's type, since sums over it nearly cancel
        ctx.parts, ctx.key = _spans(q, v), q.shape[-1]
        ctx.kind = q.dtype
        return h, *_without_n(memory, C), last.reshape(m.shape).clone()  # else a state keeps a number a token

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        with no_autocast(outputs[0]):
            return Chunkwise.gradient(ctx, *outputs)

    @staticmethod
    def gradient(ctx: Any, dh: Tensor, dC: Tensor, dn: Tensor, dm: Tensor) -> Any:
        """Gradients of all inputs of `forward`, from those of all outputs."""
        h, *kept = ctx.saved_tensors  # read once: under checkpointing every access computes them again
        size = len(kept) // len(ctx.parts)
        dq, dk, dv = (by_token(dh, width, ctx.kind) for width in (ctx.key, ctx.key, dh.shape[-1]))
        di, df = (dC.new_empty(dh.shape[:-1]) for _ in range(2))
        dmemory, last = _with_n(dC, dn), dm.flatten()
        for place, part in reversed(list(enumerate(ctx.parts))):
            x, saved, g = _restored(kept[place * size : (place + 1) * size])
            length, grown = g.m.shape[-1], dh[:, :, part]
            drawn = _cut((grown * h[:, :, part]).sum(-1), length, dC.dtype)
            dx, dmemory, last = span.backward(x, saved, g, _chunks(grown, length), drawn, dmemory, last)
            for whole, chunks in zip((dq, dk, dv, di, df), dx, strict=True):
                _put(whole[:, :, part], chunks, length)
        return dq, dk, dv, di, df, *_without_n(dmemory, dC), last.reshape(dm.shape), None


def _spans(q: Tensor, v: Tensor) -> list[slice]:
    """Cuts of T, each of as many whole chunks as `span_elements` allows."""
    batch, heads, tokens, key = q.shape
    length = mlstm_tiles(tokens)[1]
    most = span_elements(v, SPAN_ELEMENTS)
    step = length * max(1, most // (batch * heads * max(key, length) * span.columns(v.shape[-1])))
    return [slice(begin, min(begin + step, tokens)) for begin in range(0, tokens, step)]


def _inputs(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, length: int) -> span.Inputs:
    """A span, cut into chunks of `length`, the last padded with tokens that change nothing."""
    kind, width = wide(q.dtype), v.shape[-1]
    values = _chunks(v, length)
    extended = values.new_empty(*values.shape[:-1], span.columns(width), dtype=kind)
    extended[..., :width] = values
    extended[..., width] = 1
    extended[..., width + 1 :] = 0
    return span.Inputs(
        _cut(q, length, kind).flatten(0, 1),
        _cut(k, length, kind).flatten(0, 1),
        extended.flatten(0, 2),
        _cut(i, length, kind, -torch.inf),
        _cut(f, length, kind, torch.inf),
    )


def _restored(kept: tuple[Tensor, ...]) -> tuple[span.Inputs, span.Saved, ChunkGates]:
    """What `forward` kept of one span."""
    first, second = len(span.Inputs._fields), len(span.Inputs._fields) + len(span.Saved._fields)
    return span.Inputs(*kept[:first]), span.Saved(*kept[first:second]), ChunkGates(*kept[second:])


def _chunks(t: Tensor, length: int, fill: float = 0) -> Tensor:
    """(B, H, T) or (B, H, T, X) as chunks (N, B, H, L) or (N, B, H, L, X): a view, unless the end is padded."""
    if spare := -t.shape[2] % length:
        t = F.pad(t, (0, 0) * (t.dim() - 3) + (0, spare), value=fill)
    return t.unflatten(2, (-1, length)).movedim(2, 0)


def _cut(t: Tensor, length: int, dtype: torch.dtype, fill: float = 0) -> Tensor:
    """(B, H, T) or (B, H, T, X) to chunks (N, R, L) or (N, R, L, X), padded at the end, by one copy at most."""
    return _chunks(t, length, fill).to(dtype, memory_format=torch.contiguous_format).contiguous().flatten(1, 2)


def _put(whole: Tensor, made: Tensor, length: int) -> None:
    """Chunks (N, R, L) or (M, L, X) into their place (B, H, T) or (B, H, T, X), without the padding."""
    chunks, tokens = made.view(-1, *whole.shape[:2], length, *whole.shape[3:]), whole.shape[2]
    rest = tokens % length
    full = tokens - rest
    _chunks(whole[:, :, :full], length).copy_(chunks[: full // length])
    if rest:
        whole[:, :, full:] = chunks[-1, :, :, :rest]


def by_token(like: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised (B, H, T, width), laid out in memory as (B, T, H, width), as projections read and write it."""
    batch, heads, tokens, _ = like.shape
    return like.new_empty(batch, tokens, heads, width, dtype=dtype).transpose(1, 2)


def _with_n(C: Tensor, n: Tensor) -> Tensor:
    """C (B, H, K, V) with n (B, H, K) as a further column, then zeros: rows (R, K, E)."""
    return F.pad(torch.cat([C, n[..., None]], -1), (0, span.columns(C.shape[-1]) - C.shape[-1] - 1)).flatten(0, 1)


def _without_n(memory: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R, K, E) back to C (B, H, K, V), shaped as `like`, and n (B, H, K)."""
    memory, width = memory.unflatten(0, like.shape[:2]), like.shape[-1]
    return memory[..., :width].contiguous(), memory[..., width].contiguous()
