"""Matrix products of the chunkwise delta rule over one span of chunks, forward and gradient; equations in delta_rule.

Letters: N chunks, R rows (batch times heads), M = N R chunks of all rows, L tokens a chunk, K and V width of a key and
a value, G = 1 or K decays a head. A chunk's rows lie together, so that the scan over chunks takes contiguous slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hybridkit_blocks.ops.delta_pairs import BASE, ChannelPairs, HeadPairs, Pairs, diagonal_blocks


class Inputs(NamedTuple):
    """What a span takes; q is scaled."""

    q: Tensor  # (M, L, K)
    k: Tensor  # (M, L, K)
    v: Tensor  # (M, L, V)
    beta: Tensor  # (M, L, 1)
    g: Tensor  # (M, L, G): log decay


class Saved(NamedTuple):
    """What the gradient needs besides the inputs."""

    states: Tensor  # (N + 1, R, K, V): S before every chunk and after the last
    inverse: Tensor  # (M, L, L): of 1 + beta kk
    qk: Tensor  # (M, L, L)
    u: Tensor  # (M, L, V): what each token writes


class Decay:
    """The weights that decay and documents give each token of each chunk, of the state and of each other."""

    def __init__(self, g: Tensor, document_starts: Tensor | None) -> None:
        """From log decays g (M, L, G) and starts (M, L)."""
        b = g.cumsum(1)
        self.intake, self.write, self.keep = torch.exp(b), torch.exp(b[:, -1:] - b), torch.exp(b[:, -1])
        same = None
        if document_starts is not None:
            document = document_starts.cumsum(1)
            same = document[:, :, None] == document[:, None]
            self.intake.mul_((document == 0)[..., None])
            self.write.mul_(same[:, -1, :, None])
            self.keep.mul_(document[:, -1:] == 0)
        self.pairs: Pairs = HeadPairs(b, same) if b.shape[-1] == 1 else ChannelPairs(b, same)


def forward(x: Inputs, document_starts: Tensor | None, state: Tensor) -> tuple[Tensor, Saved]:
    """o (M, L, V), from starts (M, L) and S (R, K, V) before the span. S after it is the last of the states."""
    decay = Decay(x.g, document_starts)
    kk, qk = decay.pairs.products(x.q, x.k)
    inverse = unit_inverse(kk.mul_(x.beta))
    u = torch.bmm(inverse, x.v * x.beta)
    erased = torch.bmm(inverse, x.k * (decay.intake * x.beta))
    states = _scan(u, erased, x.k * decay.write, decay.keep, state)
    o = torch.bmm(x.q * decay.intake, states[:-1].flatten(0, 1))
    return _plus(o, qk, u), Saved(states, inverse, qk, u)


def backward(
    x: Inputs, document_starts: Tensor | None, saved: Saved, do: Tensor, dstate: Tensor
) -> tuple[Inputs, Tensor]:
    """Gradients of the inputs and of S before the span, from those of o (M, L, V) and of S after it (R, K, V)."""
    decay, (states, inverse, qk, u) = Decay(x.g, document_starts), saved
    q_in, k_in, k_out = x.q * decay.intake, x.k * decay.intake, x.k * decay.write
    du, dstates = torch.bmm(qk.mT, do), _with_last(torch.bmm(q_in.mT, do), dstate)
    _scan_back(du, dstates, torch.bmm(inverse, k_in * x.beta), k_out, decay.keep)
    before, after = states[:-1].flatten(0, 1), dstates[1:].flatten(0, 1)
    dsolved = torch.bmm(inverse.mT, du)  # of beta (v - k_in S)
    dv = dsolved * x.beta
    dbeta = (dsolved * u).sum(-1, keepdim=True) / x.beta.where(x.beta != 0, 1)  # where beta is 0, u is
    dq, d_row, d_column = decay.pairs.gradient(x.q, x.k, torch.bmm(dv, u.mT).neg_(), torch.bmm(do, u.mT))
    dq.addcmul_(torch.bmm(do, before.mT), decay.intake)
    d_row.addcmul_(torch.bmm(dv, before.mT), decay.intake, value=-1)
    written = torch.bmm(u, after.mT).mul_(decay.write)
    db = (x.q * dq).addcmul_(x.k, d_row).addcmul_(x.k, d_column, value=-1)
    passed = (states[:-1] * dstates[1:]).sum(-1).flatten(0, 1).mul_(decay.keep)
    dg = _decay_gradient(db, x.k * written, passed, x.g.shape[-1])
    own = (do * u).sum(-1, keepdim=True)  # of q_t . k_t, on which no decay lies
    dq.addcmul_(own, x.k)
    dk = d_row.add_(d_column).add_(written).addcmul_(own, x.q)
    return Inputs(dq, dk, dv, dbeta, dg), dstates[0]


def _decay_gradient(db: Tensor, written: Tensor, passed: Tensor, decays: int) -> Tensor:
    """The gradient of g (M, L, G), where `db` (M, L, K) lacks what comes through S after the chunk.

    What a token has written, k . dk (M, L, K), decays from the token on to the last b of the chunk; what S before the
    chunk passes on (M, K), from the first to the last. Terms that cancel by definition are left out, not subtracted.
    """
    written[:, -1] = 0
    db.sub_(written)[:, -1] += written.sum(1) + passed
    if decays == 1:
        db = db.sum(-1, keepdim=True)
    return db.flip(1).cumsum(1).flip(1)


def unit_inverse(lower: Tensor) -> Tensor:
    """The inverse of 1 + A (M, L, L), for the part A of `lower` below the diagonal.

    Blocks of 2 BASE tokens are solved, and joined two and two: for [[a, 0], [c, d]] it is [[a', 0], [-d' c a', d']].
    """
    length, size = lower.shape[1], min(lower.shape[1], 2 * BASE)
    inverse, blocks = torch.zeros_like(lower), diagonal_blocks(lower, size)
    ones = torch.eye(size, dtype=lower.dtype, device=lower.device)
    solved = torch.linalg.solve_triangular(blocks, ones.expand_as(blocks), upper=False, unitriangular=True)
    diagonal_blocks(inverse, size).copy_(solved)
    while size < length:
        made, given = diagonal_blocks(inverse, 2 * size), diagonal_blocks(lower, 2 * size)
        first, second, below = made[..., :size, :size], made[..., size:, size:], given[..., size:, :size]
        made[..., size:, :size] = (second @ below @ first).neg_()
        size *= 2
    return inverse


def _scan(u: Tensor, erased: Tensor, k_out: Tensor, keep: Tensor, first: Tensor) -> Tensor:
    """States (N + 1, R, K, V) before each chunk; `u` (M, L, V) becomes what is written, given the state."""
    rows = len(first)
    states = first.new_empty(len(u) // rows + 1, *first.shape)
    states[0] = first
    parts = (t.unflatten(0, (-1, rows)).unbind() for t in (u, erased, k_out.mT, keep[..., None]))
    for state, following, written, erase, write, kept in zip(
        states[:-1].unbind(), states[1:].unbind(), *parts, strict=True
    ):
        torch.baddbmm(written, erase, state, alpha=-1, out=written)
        _plus(torch.mul(state, kept, out=following), write, written)
    return states


def _with_last(made: Tensor, last: Tensor) -> Tensor:
    """(M, K, V) and a last one (R, K, V), as (N + 1, R, K, V)."""
    return torch.cat([made.unflatten(0, (-1, len(last))), last[None]])


def _scan_back(du: Tensor, dstates: Tensor, erased: Tensor, k_out: Tensor, keep: Tensor) -> None:
    """Adds to gradients of u (M, L, V) and of states (N + 1, R, K, V) what comes from later chunks, in place."""
    rows = dstates.shape[1]
    parts = (t.unflatten(0, (-1, rows)).unbind()[::-1] for t in (du, erased.mT, k_out, keep[..., None]))
    for state, following, written, erase, write, kept in zip(
        dstates[:-1].unbind()[::-1], dstates[1:].unbind()[::-1], *parts, strict=True
    ):
        _plus(written, write, following)
        state.addcmul_(following, kept)
        torch.baddbmm(state, erase, written, alpha=-1, out=state)


def _plus(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x += a @ b, as an operation that FLOP counters know."""
    return torch.baddbmm(x, a, b, out=x)
