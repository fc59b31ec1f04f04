"""The gated delta rule in chunkwise form, for any length, carried states and packed documents, with its own gradient.

The rule (Gated DeltaNet, arXiv 2412.06464; Kimi Delta Attention, arXiv 2510.26692), for one head:

    S_t = D_t S_{t-1} + k_t u_t^T      u_t = beta_t (v_t - (D_t S_{t-1})^T k_t)      o_t = S_t^T q_t

with D_t = exp(g_t) for one log decay g_t <= 0 a head (GDN), or the diagonal matrix of one a channel (KDA). q and k are
divided by their length, sqrt(x . x + 1e-6), and q by sqrt(K).

Cut into chunks of L tokens, with b the sum of g from the chunk's first token on and S the state before the chunk:

    (1 + beta kk) U = beta (V - (exp(b) K) S)         o = (exp(b) Q) S + qk U         kk, qk: delta_pairs.py
    S' = exp(b_L) S + (exp(b_L - b) K)^T U

The inverse of 1 + beta kk, unit lower triangular, is the only part that is not a product; U and S' of each chunk come
from one short scan, all else is products over many chunks at once. A document starts from S = 0; inside a chunk, pairs
of tokens from two documents are masked, so that nothing of an earlier document enters at all.

The gradient of g needs no sums over pairs: every term grows by exp(b_t) with the q_t and k_t in it, and shrinks by
exp(b_s) with k_s, so that dL/db is q dq + k dk of the former, minus k dk of the latter, channel by channel.

Letters: B batch, T tokens, H value heads, J key heads, each shared by H / J value heads in a row, K and V width of a
key and a value, G = 1 or K decays a head; further ones in delta_span.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit_blocks.ops import delta_span as span
from hybridkit_blocks.ops.delta_pairs import BASE
from hybridkit_blocks.ops.operators import operator
from hybridkit_blocks.ops.precision import no_autocast, wide
from hybridkit_blocks.ops.spans import span_elements

MAX_CHUNK = 64  # L at most
SPAN_ELEMENTS = 2**18  # elements of a work tensor at most, so that a span stays small however long the sequence is
EPS = 1e-6  # of the length of q and k, as in fla and transformers


def chunk_length(tokens: int) -> int:
    """L: a power of two from 2 BASE on, no larger than it takes to hold all tokens."""
    length = 2 * BASE
    while length < min(tokens, MAX_CHUNK):
        length *= 2
    return length


def chunk_products(heads: int, key: int, value: int, tokens: int, pairs: Callable[[int, int], int]) -> int:
    """Multiply-adds of `chunkwise_delta` for one sequence: `pairs` counts those of kk and qk, from L and K.

    The inverse has half a cube for each solved block of 2 BASE tokens, and two products for every two blocks joined.
    """
    length, size = chunk_length(tokens), 2 * BASE
    inverse = length * size**2 // 2 + sum(
        length * (size << level) ** 2 for level in range((length // size).bit_length() - 1)
    )
    chunk = pairs(length, key) + inverse + length**2 * (key + 2 * value) + 3 * length * key * value
    return -(-tokens // length) * heads * chunk


def chunkwise_delta(
    q: Tensor,  # (B, T, J, K)
    k: Tensor,  # (B, T, J, K)
    v: Tensor,  # (B, T, H, V)
    beta: Tensor,  # (B, T, H)
    g: Tensor,  # (B, T, H, G), log decay, at most 0
    state: Tensor | None = None,  # (B, H, K, V), at least fp32
    document_starts: Tensor | None = None,  # (B, T) bool
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) in v's type and the state after the last token. Every output can be differentiated, once.

    Where beta is exactly 0, its gradient is given as 0: a sigmoid that has come to 0 has none.
    """
    if state is None:
        state = v.new_zeros(len(v), v.shape[2], k.shape[-1], v.shape[-1], dtype=wide(v.dtype))
    run = _operator if torch.compiler.is_compiling() else _Chunkwise.apply
    with no_autocast(v):
        if v.shape[1] == 1:
            return _one_token(q, k, v, beta, g, state, document_starts)
        o, after = run(q, k, v, beta, g, state, document_starts)
    return o, after


def _one_token(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor, document_starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rule itself, for a token alone."""
    group, kind = v.shape[2] // k.shape[2], state.dtype
    q, k = normalised(q.to(kind), k.shape[-1] ** -0.5), normalised(k.to(kind))
    q, k = (t.repeat_interleave(group, 2).transpose(1, 2) for t in (q, k))  # (B, H, 1, K)
    if document_starts is not None:
        state = state.masked_fill(document_starts[..., None, None], 0)
    kept = state * g[:, 0, :, :, None].exp()
    u = (v.transpose(1, 2) - k @ kept) * beta.transpose(1, 2)[..., None]
    after = kept + k.mT * u
    return (q @ after).transpose(1, 2).to(v.dtype), after


def normalised(x: Tensor, scale: float = 1) -> Tensor:
    """`scale` times x (..., K) over its length."""
    return x * (torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS) * scale)


def recurrent_delta_(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor) -> Tensor:
    """One token of R = B H rows: normalised q and k (R, 1, K), v (R, 1, V), beta (R, 1, 1), exp(g) (R, G, 1) to o
    (R, 1, V); `state` (R, K, V) is changed in place. All are of the state's type."""
    state.mul_(decay)
    u = torch.sub(v, torch.bmm(k, state)).mul_(beta)
    state.addcmul_(k.mT, u)
    return torch.bmm(q, state)


class _Chunkwise(torch.autograd.Function):
    """o and the state after it, span by span, so that work tensors stay small however long the sequence is."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor, document_starts: Any
    ) -> Any:
        o, rows, kept = torch.empty_like(v, memory_format=torch.contiguous_format), state.flatten(0, 1), []
        for part in _spans(k, v):
            length = chunk_length(v.shape[1])
            x, norms = _inputs([t[:, part] for t in (q, k, v, beta[..., None], g)], length, state.dtype)
            starts = _starts(document_starts, part, v.shape[2], length)
            made, saved = span.forward(x, starts, rows)
            _put(o[:, part], made)
            rows = saved.states[-1]
            kept += [*x, *norms, starts, *saved] if any(ctx.needs_input_grad) else []
        ctx.save_for_backward(*kept)
        ctx.inputs, ctx.spans = (q.dtype, beta.dtype, g.dtype, q.shape, g.shape), _spans(k, v)
        return o, rows.view_as(state).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dstate: Tensor) -> Any:
        with no_autocast(do):
            return _Chunkwise.gradient(ctx, do, dstate)

    @staticmethod
    def gradient(ctx: Any, do: Tensor, dstate: Tensor) -> Any:
        """Gradients of all inputs of `forward`, from those of both outputs."""
        kept = ctx.saved_tensors  # read once: under checkpointing every access computes them again
        (kind, beta_kind, g_kind, key_shape, decay_shape), size = ctx.inputs, len(kept) // len(ctx.spans)
        dq, dk = (do.new_empty(key_shape, dtype=kind) for _ in range(2))
        dv = torch.empty_like(do, memory_format=torch.contiguous_format)
        dbeta, dg = do.new_empty(*do.shape[:3], 1, dtype=beta_kind), do.new_empty(decay_shape, dtype=g_kind)
        rows = dstate.flatten(0, 1)
        for place, part in reversed(list(enumerate(ctx.spans))):
            (*x, q_norm, k_norm, starts), saved = _split(kept[place * size : (place + 1) * size])
            inputs = span.Inputs(*x)
            grown = _cut(do[:, part], inputs.v.shape[1], rows.dtype).flatten(0, 2)
            dx, rows = span.backward(inputs, starts, span.Saved(*saved), grown, rows)
            scale = key_shape[-1] ** -0.5
            _put(dq[:, part], _norm_gradient(dx.q, inputs.q, q_norm, scale))
            _put(dk[:, part], _norm_gradient(dx.k, inputs.k, k_norm, 1))
            for whole, made in ((dv, dx.v), (dbeta, dx.beta), (dg, dx.g)):
                _put(whole[:, part], made)
        return dq, dk, dv, dbeta[..., 0], dg, rows.view_as(dstate), None


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor beta, Tensor g, Tensor state, Tensor? document_starts"
_operator = operator("delta_rule", _Chunkwise, _INPUTS, outputs=2)


def _split(kept: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What `forward` kept of one span: inputs, norms and starts, and what the span saved."""
    own = len(kept) - len(span.Saved._fields)
    return kept[:own], kept[own:]


def _spans(k: Tensor, v: Tensor) -> list[slice]:
    """Cuts of T, each of as many whole chunks as `span_elements` allows."""
    batch, tokens, heads, value = v.shape
    length = chunk_length(tokens)
    most = span_elements(v, SPAN_ELEMENTS)
    step = length * max(1, most // (batch * heads * max(k.shape[-1], length) * max(value, length)))
    return [slice(begin, min(begin + step, tokens)) for begin in range(0, tokens, step)]


def _inputs(given: Sequence[Tensor], length: int, kind: torch.dtype) -> tuple[span.Inputs, tuple[Tensor, Tensor]]:
    """A span's q, k, v, beta and g (B, T, H, .), cut into chunks, the last padded with tokens that change nothing; and
    1 over the lengths of q and k."""
    q, k, *others = given
    group = others[0].shape[2] // k.shape[2]
    normed, norms = [], []
    for t, scale in ((q, q.shape[-1] ** -0.5), (k, 1.0)):
        chunks = _cut(t, length, kind)  # (N, B, J, L, K)
        norm = torch.rsqrt(torch.linalg.vector_norm(chunks, dim=-1, keepdim=True).square_().add_(EPS))
        chunks = chunks * (norm * scale)
        normed.append((chunks if group == 1 else chunks.repeat_interleave(group, 2)).flatten(0, 2))
        norms.append(norm)
    values, rates, decays = (_cut(t, length, kind).flatten(0, 2) for t in others)
    return span.Inputs(normed[0], normed[1], values, rates, decays), (norms[0], norms[1])


def _norm_gradient(grad: Tensor, normed: Tensor, norm: Tensor, scale: float) -> Tensor:
    """The gradient of x (N B J, L, K), from that of x normalised for each value head (M, L, K)."""
    chunks, batch, heads = norm.shape[:3]
    grad, normed = (t.view(chunks * batch * heads, -1, *t.shape[1:]) for t in (grad, normed))
    normed = normed[:, 0]
    grad = grad[:, 0] if grad.shape[1] == 1 else grad.sum(1)
    along = (grad * normed).sum(-1, keepdim=True)
    return torch.addcmul(grad * scale, normed, along, value=-1 / scale).mul_(norm.flatten(0, 2))


def _starts(document_starts: Tensor | None, part: slice, heads: int, length: int) -> Tensor | None:
    """Starts (B, T) as chunks of every head (M, L)."""
    if document_starts is None:
        return None
    chunks = _cut(document_starts[:, part, None, None], length, torch.bool)
    return chunks.expand(-1, -1, heads, -1, -1).flatten(0, 2)[..., 0]


def _cut(t: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """(B, T, H, X) to chunks (N, B, H, L, X), the last padded with zeros, by one copy at most."""
    if spare := -t.shape[1] % length:
        t = F.pad(t, (0, 0, 0, 0, 0, spare))
    chunks = t.unflatten(1, (-1, length)).permute(1, 0, 3, 2, 4)
    return chunks.to(dtype, memory_format=torch.contiguous_format).contiguous()


def _put(whole: Tensor, made: Tensor) -> None:
    """Chunks (M, L, X) into their place (B, T, H, X), without the padding."""
    batch, tokens, heads, width = whole.shape
    length = made.shape[1]
    chunks = made.view(-1, batch, heads, length, width).permute(1, 0, 3, 2, 4)  # (B, N, L, H, X)
    full = tokens - tokens % length
    if full:
        whole[:, :full].unflatten(1, (-1, length)).copy_(chunks[:, : full // length])
    if full < tokens:
        whole[:, full:] = chunks[:, -1, : tokens - full]
