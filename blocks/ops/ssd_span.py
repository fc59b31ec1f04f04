"""Matrix products of the chunkwise SSD over one span of chunks, forward and gradient; equations in ssd.py.

With b_t the sum of the logarithms l from a chunk's first token to t, and S the state before the chunk,

    r_t = exp(b_t) S C_t + sum over s < t of exp(b_t - b_s) (C_t . B_s) dt_s x_s
    y_t = r_t + (D + dt_t C_t . B_t) x_t
    S'  = exp(b_L) S + sum over s of exp(b_L - b_s) dt_s x_s B_s^T

The gradient of l needs no sums over pairs: with W_ts the weight of token s in r_t, the sum over s of dL/dlog W_ts is
dy_t . r_t, and the sum over t is dt_s x_s . v_s, where v_s is the gradient of dt_s x_s in what later tokens read. A
token's own part, which does not depend on l, is kept apart: where a decays fast it is by far the largest, and in fp32
nothing would be left of the rest.

Letters: N chunks, B batch, G groups, R = B G, M = N R chunks of all rows, L tokens a chunk, J heads of a group, P width
of a head, E = J P, K width of a key (B and C). A chunk's rows lie together, so that the scan over chunks takes
contiguous slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """What a span takes, or its gradients: views of the sequence, cut into chunks. They may be of any memory layout."""

    x: Tensor  # (N, B, G, L, J, P)
    dt: Tensor  # (N, B, G, L, J)
    log_a: Tensor  # (N, B, G, L, J)
    b: Tensor  # (N, B, G, L, K)
    c: Tensor  # (N, B, G, L, K)
    document_starts: Tensor | None  # (N, B, L): a document begins here; None where none does


def part(v: Inputs, chunks: slice) -> Inputs:
    """Some of the chunks."""
    return Inputs(*(None if t is None else t[chunks] for t in v))  # type: ignore[arg-type]


class Decays(NamedTuple):
    """The weights of a span's products, from log_a and documents."""

    intake: Tensor  # (N, B, G, L, J): of the chunk's incoming state in each token's output
    write: Tensor  # (N, B, G, L, J): of each token in the outgoing state
    pairs: Tensor  # (M, J, L, L): of token s (last) in a later token's output, 0 where that does not see it

    def keep(self, width: int) -> Tensor:
        """Weight of the incoming state in the outgoing one, for each column (N, R, 1, E), for heads of `width`."""
        return self.intake[:, :, :, -1].flatten(1, 2).repeat_interleave(width, -1)[:, :, None]


def forward(v: Inputs, skip: Tensor, memory: Tensor, r: Tensor, y: Tensor) -> Tensor:
    """Fills r and y (N, B, G, L, J, P); gives the states before every chunk and after the last (N + 1, R, K, E).

    `skip` (G, 1, J) is D, and `memory` (R, K, E) the state before the span.
    """
    shape, dt, (b, c) = v.x.shape, v.dt.to(r.dtype), _keys(v, r.dtype)
    d, scores = _decays(v, r.dtype), torch.bmm(c, b.mT)
    written = torch.bmm(b.mT, _by_token(v.x, dt * d.write))
    states = _scan(written.view(-1, *memory.shape), d.keep(shape[-1]), memory)
    far = torch.bmm(c, states[:-1].flatten(0, 1)).view(shape)
    near = torch.bmm(d.pairs.mul_(scores[:, None]).flatten(0, 1), _by_head(v.x, dt))
    torch.addcmul(_tokens_first(near, shape), far, d.intake[..., None], out=r)
    torch.addcmul(r, v.x.to(r.dtype), (dt * _own(scores, shape) + skip)[..., None], out=y)
    return states


def backward(v: Inputs, skip: Tensor, states: Tensor, dy: Tensor, r: Tensor, dmemory: Tensor, grads: Inputs) -> Tensor:
    """Fills the gradients, that of dt without what dt gives log_a; gives that of the state before the span (R, K, E).

    From dy, r (N, B, G, L, J, P) and the gradient of the state after the span.
    """
    shape, kind = v.x.shape, states.dtype
    x, dy, dt, (b, c) = v.x.to(kind), dy.to(kind), v.dt.to(kind), _keys(v, kind)
    d, scores = _decays(v, kind), torch.bmm(c, b.mT)
    asked = _by_token(dy, d.intake)
    dstates = _scan_back(torch.bmm(c.mT, asked).view(-1, *dmemory.shape), d.keep(shape[-1]), dmemory)
    before, after = states[:-1].flatten(0, 1), dstates[1:].flatten(0, 1)
    dc, db = torch.bmm(asked, before.mT), torch.bmm(_by_token(x, dt * d.write), after.mT)
    far = torch.bmm(b, after).view(shape)

    asked, seen = dy.transpose(3, 4).contiguous().flatten(0, 3), torch.linalg.vecdot(dy, x)  # (M J, L, P), dy . x
    dscores = torch.bmm(asked, _by_head(x, dt).mT).view_as(d.pairs).mul_(d.pairs).sum(1)
    dscores.diagonal(0, 1, 2).add_((seen * dt).sum(-1).flatten(0, 2))
    grads.c.copy_(torch.baddbmm(dc, dscores, b, out=dc).view(grads.c.shape))
    grads.b.copy_(torch.baddbmm(db, dscores.mT, c, out=db).view(grads.b.shape))

    near = torch.bmm(d.pairs.mul_(scores[:, None]).flatten(0, 1).mT, asked)
    dgiven = far.mul_(d.write[..., None]).add_(_tokens_first(near, shape))  # of dt x, in later tokens
    own, drawn = _own(scores, shape), torch.linalg.vecdot(x, dgiven)
    torch.add(drawn, seen * own, out=grads.dt)
    torch.mul(dgiven, dt[..., None], out=grads.x).addcmul_(dy, (dt * own + skip)[..., None])

    dlog = torch.linalg.vecdot(dy, r) - drawn * dt
    passed = (dstates[1:] * states[1:]).sum(2)  # (N, R, E): all that the chunk's last sum of logarithms scales
    dlog[:, :, :, -1] += passed.view(*shape[:3], *shape[4:]).sum(-1)
    grads.log_a.copy_(dlog.flip(3).cumsum(3).flip(3))
    return dstates[0]


def _decays(v: Inputs, kind: torch.dtype) -> Decays:
    """Sums of logarithms are taken in float64, since pairs need small differences of large ones."""
    total = v.log_a.double().cumsum(3)
    intake, write = total.exp().to(kind), (total[:, :, :, -1:] - total).exp().to(kind)
    heads = total.transpose(3, 4).flatten(0, 2)  # (M, J, L)
    near = heads.to(kind)
    pairs = near[..., None] - near[..., None, :]
    if kind != torch.float64:
        rest = (heads - near).to(kind)
        pairs.add_(rest[..., None]).sub_(rest[..., None, :])
    length = pairs.shape[-1]
    hidden = torch.full((length, length), -torch.inf, dtype=kind, device=pairs.device).triu_()
    pairs.add_(hidden).exp_()
    if v.document_starts is not None:
        document = v.document_starts.cumsum(-1)[:, :, None, :, None]  # (N, B, 1, L, 1)
        intake, write = intake * (document == 0), write * (document == document[:, :, :, -1:])
        same = (document == document.mT).expand(*v.x.shape[:3], -1, -1)
        pairs.mul_(same.flatten(0, 2)[:, None])
    return Decays(intake, write, pairs)


def _keys(v: Inputs, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """B and C (M, L, K), contiguous."""
    b, c = (t.to(kind).flatten(0, 2).contiguous() for t in (v.b, v.c))
    return b, c


def _by_token(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, B, G, L, J, P) times its weights (N, B, G, L, J), laid out as (M, L, E)."""
    made = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    return torch.mul(x, weight[..., None], out=made).flatten(4).flatten(0, 2)


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """The same, laid out as (M J, L, P)."""
    x, weight = x.transpose(3, 4), weight.transpose(3, 4)
    made = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
    return torch.mul(x, weight[..., None], out=made).flatten(0, 3)


def _own(scores: Tensor, shape: torch.Size) -> Tensor:
    """C_t . B_t of every token (N, B, G, L, 1), from those of all pairs (M, L, L)."""
    return scores.diagonal(0, 1, 2).reshape(*shape[:4], 1)


def _tokens_first(t: Tensor, shape: torch.Size) -> Tensor:
    """(M J, L, P) as (N, B, G, L, J, P)."""
    return t.view(*shape[:3], shape[4], shape[3], shape[5]).transpose(3, 4)


def _scan(added: Tensor, keep: Tensor, first: Tensor) -> Tensor:
    """states[0] = first, states[n + 1] = keep[n] states[n] + added[n]: (N + 1, R, K, E)."""
    states = added.new_empty(len(added) + 1, *first.shape)
    states[0] = first
    before, *after = states.unbind()
    for more, factor, state in zip(added.unbind(), keep.unbind(), after, strict=True):
        before = torch.addcmul(more, before, factor, out=state)
    return states


def _scan_back(added: Tensor, keep: Tensor, last: Tensor) -> Tensor:
    """states[N] = last, states[n] = keep[n] states[n + 1] + added[n]: (N + 1, R, K, E)."""
    states = added.new_empty(len(added) + 1, *last.shape)
    states[-1] = last
    after, *before = states.unbind()[::-1]
    for more, factor, state in zip(added.unbind()[::-1], keep.unbind()[::-1], before, strict=True):
        after = torch.addcmul(more, after, factor, out=state)
    return states
