"""Matrix products of the chunkwise mLSTM over one span of chunks, forward and gradient; equations in mlstm_chunkwise.

n is C's last column: v gets a column of ones (and zeros up to a multiple of 16, which matrix products run faster on).

Letters: N chunks, R rows (batch times heads), M = N R chunks of all rows, L tokens a chunk, K and V width of a key and
a value, E = V and the extra columns. A chunk's rows lie together, so that the scan over chunks takes contiguous slices.
The factor K^-1/2 on q is put into the weights that q is multiplied with, since they are smaller or computed anyway.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hybridkit_blocks.ops.mlstm_gates import ChunkGates, gates, m_gradient

EPS = 1e-6  # as in mlstm_kernels and transformers


class Inputs(NamedTuple):
    """What a span takes: v with its extra columns. Its gradient has v's own columns alone."""

    q: Tensor  # (M, L, K)
    k: Tensor  # (M, L, K)
    v: Tensor  # (M, L, E)
    i: Tensor  # (N, R, L)
    f: Tensor  # (N, R, L)


class Saved(NamedTuple):
    """What the gradient needs besides the inputs, h and the gates."""

    states: Tensor  # (N + 1, R, K, E): the memory before every chunk and after the last
    before: Tensor  # (R,): m before the span
    pairs: Tensor  # (M, L, L): D
    weights: Tensor  # (M, L, L): D times q . k
    norm: Tensor  # (N, R, L): what h was divided by
    side: Tensor  # (N, R, L): sign of n . q where it is the normalizer, else 0


def columns(width: int) -> int:
    """E: a value's width, one for n, and up to a multiple of 16."""
    return width + 1 + -(width + 1) % 16


def forward(
    x: Inputs, document_starts: Tensor | None, memory: Tensor, m: Tensor, width: int
) -> tuple[Tensor, Saved, ChunkGates]:
    """h (M, L, V), from starts (N, R, L), memory (R, K, E) and m (R,) before the span.

    The memory after it is the last of the states, with the last m.
    """
    g, scale = gates(x.i, x.f, m, document_starts), x.q.shape[-1] ** -0.5
    written = torch.bmm((x.k * _column(g.write())).mT, x.v)
    states = _scan(written.view(-1, *memory.shape), g.keep, memory)
    sums = torch.bmm(x.q * _column(g.intake * scale), states[:-1].flatten(0, 1))
    pairs = g.pairs(scale)
    weights = torch.bmm(x.q, x.k.mT).mul_(pairs)
    _plus(sums, weights, x.v)  # (M, L, E)
    dot, floor = sums[..., width].view_as(g.m), torch.exp(-g.m)
    norm = torch.maximum(dot.abs(), floor) + EPS
    side = dot.sign() * (dot.abs() > floor)
    return sums[..., :width].div_(_column(norm)), Saved(states, m, pairs, weights, norm, side), g


def backward(
    x: Inputs, saved: Saved, g: ChunkGates, dh: Tensor, drawn: Tensor, dmemory: Tensor, dm: Tensor
) -> tuple[Inputs, Tensor, Tensor]:
    """Gradients of the inputs, of the memory (R, K, E) and of m (R,) before the span.

    From dh, that of h, of any shape that (M, L, V) flattens; dh . h (N, R, L); and those of the memory and m after the
    span.
    """
    q, k, v, states, width, scale = x.q, x.k, x.v, saved.states, dh.shape[-1], x.q.shape[-1] ** -0.5
    dsums = torch.empty_like(v)
    torch.div(dh, saved.norm.view(*dh.shape[:-1], 1), out=dsums.view(*dh.shape[:-1], -1)[..., :width])
    dsums[..., width] = (drawn * saved.side / saved.norm).neg_().flatten(0, 1)
    dsums[..., width + 1 :] = 0
    intake, write = _column(g.intake * scale), _column(g.write())

    dstates = _scan_back(torch.bmm((q * intake).mT, dsums).view(-1, *dmemory.shape), g.keep, dmemory)
    before, after = states[:-1].flatten(0, 1), dstates[1:].flatten(0, 1)
    dpairs = torch.bmm(dsums, v.mT).mul_(saved.pairs)
    dq = _plus(torch.bmm(dsums, before.mT).mul_(intake), dpairs, k)
    dk = _plus(torch.bmm(v, after.mT).mul_(write), dpairs.mT, q)
    dv = _plus(torch.bmm(k * write, after[..., :width]), saved.weights.mT, dsums[..., :width])

    passed = (dstates * states).sum((-1, -2))  # (N + 1, R)
    dms = -drawn * EPS / saved.norm
    dms[-1, :, -1] += dm - passed[-1]
    won, lost, first = m_gradient(dms, g, x.i, saved.before)
    di = (k * dk).sum(-1).view_as(drawn)
    df = (_decay_gradient(drawn, di, passed[1:], saved) + lost) * -torch.expm1(g.log_f)  # the latter: sigmoid of -f
    return Inputs(dq, dk, dv, di + won, df), dstates[0], first + passed[0]


def _plus(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x += a @ b, as an operation that FLOP counters know."""
    return torch.baddbmm(x, a, b, out=x)


def _column(weights: Tensor) -> Tensor:
    """Weights (N, R, L) of the rows of (M, L, .)."""
    return weights.view(-1, weights.shape[-1], 1)


def _decay_gradient(drawn: Tensor, given: Tensor, passed: Tensor, saved: Saved) -> Tensor:
    """The gradient of log_f (N, R, L) at a fixed m.

    A token's b adds to what the token reads, dh . h minus the normalizer's part, and takes from what it writes, k . dk;
    the last b of a chunk also adds to all that the chunk passes on (N, R).
    """
    ddecay = drawn * torch.where(saved.side != 0, EPS / saved.norm, 1) - given
    ddecay[..., -1] += passed
    return ddecay.flip(-1).cumsum(-1).flip(-1)


def _scan(added: Tensor, keep: Tensor, first: Tensor) -> Tensor:
    """states[0] = first, states[n + 1] = keep[n] states[n] + added[n]: (N + 1, R, K, E), for keep (N, R)."""
    states = added.new_empty(len(added) + 1, *first.shape)
    states[0] = first
    before, *after = states.unbind()
    for more, factor, state in zip(added.unbind(), keep[..., None, None].unbind(), after, strict=True):
        before = torch.addcmul(more, before, factor, out=state)
    return states


def _scan_back(added: Tensor, keep: Tensor, last: Tensor) -> Tensor:
    """states[N] = last, states[n] = keep[n] states[n + 1] + added[n]: (N + 1, R, K, E), for keep (N, R)."""
    states = added.new_empty(len(added) + 1, *last.shape)
    states[-1] = last
    after, *before = states.unbind()[::-1]
    steps = zip(added.unbind()[::-1], keep[..., None, None].unbind()[::-1], before, strict=True)
    for more, factor, state in steps:
        after = torch.addcmul(more, after, factor, out=state)
    return states
