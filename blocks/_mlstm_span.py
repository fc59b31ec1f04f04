"""Matrix products of the chunkwise mLSTM over one span of chunks, forward and gradient; equations in _mlstm_chunkwise.

n is C's last column: v gets a column of ones (and zeros up to a multiple of 16, which matrix products run faster on).

Letters: N chunks, R rows (batch times heads), L tokens a chunk, K and V width of a key and a value, E = V and the extra
columns. Chunked tensors are (N, R, L, .), so that the scan over chunks takes contiguous slices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._mlstm_gates import Gates, gates, m_gradient

EPS = 1e-6  # as in mlstm_kernels and transformers


class Inputs(NamedTuple):
    """What a span takes: q already scaled, v with its extra columns. Its gradient has v's own columns alone."""

    q: Tensor  # (N, R, L, K)
    k: Tensor  # (N, R, L, K)
    v: Tensor  # (N, R, L, E)
    i: Tensor  # (N, R, L)
    f: Tensor  # (N, R, L)


class Saved(NamedTuple):
    """What the gradient needs besides the inputs and the gates. The pairs' weights are made anew: they hold T L."""

    states: Tensor  # (N + 1, R, K, E): the memory before every chunk and after the last
    before: Tensor  # (R,): m before the span
    h: Tensor  # (N, R, L, V)
    norm: Tensor  # (N, R, L): what h was divided by
    side: Tensor  # (N, R, L): sign of n . q where it is the normalizer, else 0


def columns(width: int) -> int:
    """E: a value's width, one for n, and up to a multiple of 16."""
    return width + 1 + -(width + 1) % 16


def forward(x: Inputs, starts: Tensor | None, memory: Tensor, m: Tensor, width: int) -> tuple[Saved, Gates]:
    """From starts (N, R, L), memory (R, K, E) and m (R,) before the span.

    The memory after it is the last of the states, with the last m.
    """
    g = gates(x.i, x.f, m, starts)
    states = _scan((x.k * g.write()[..., None]).mT @ x.v, g.keep, memory)
    sums = (x.q * g.intake[..., None]) @ states[:-1]
    sums += (x.q @ x.k.mT).mul_(g.pairs()) @ x.v  # (N, R, L, E)
    dot, floor = sums[..., width], torch.exp(-g.m)
    norm = torch.maximum(dot.abs(), floor) + EPS
    side = dot.sign() * (dot.abs() > floor)
    return Saved(states, m, sums[..., :width] / norm[..., None], norm, side), g


def backward(
    x: Inputs, saved: Saved, g: Gates, dh: Tensor, dmemory: Tensor, dm: Tensor
) -> tuple[Inputs, Tensor, Tensor]:
    """Gradients of the inputs, of the memory (R, K, E) and of m (R,) before the span.

    From those of h (N, R, L, V) and of the memory and m after the span.
    """
    q, k, v, states, width = x.q, x.k, x.v, saved.states, dh.shape[-1]
    drawn = (dh * saved.h).sum(-1)  # (N, R, L)
    dsums = torch.zeros_like(v)
    torch.div(dh, saved.norm[..., None], out=dsums[..., :width])
    dsums[..., width] = -drawn * saved.side / saved.norm
    intake, write, pairs = g.intake[..., None], g.write()[..., None], g.pairs()

    dstates = _scan_back((q * intake).mT @ dsums, g.keep, dmemory)
    after = dstates[1:]
    dpairs = (dsums @ v.mT).mul_(pairs)
    dq = (dsums @ states[:-1].mT).mul_(intake)
    dq += dpairs @ k
    dwritten = (v @ after.mT).mul_(write)
    dk = dpairs.mT @ q
    dk += dwritten
    dv = (k * write) @ after[..., :width]
    dv += (q @ k.mT).mul_(pairs).mT @ dsums[..., :width]

    passed = (k * dwritten).sum((-1, -2)) + g.keep * (after * states[:-1]).sum((-1, -2))
    dms = -drawn * EPS / saved.norm
    dms[-1, :, -1] += dm - (dstates[-1] * states[-1]).sum((-1, -2))
    won, lost, first = m_gradient(dms, g, x.i, saved.before)
    di = (k * dk).sum(-1)
    df = (_decay_gradient(drawn, di, passed, saved) + lost) * -torch.expm1(g.log_f)  # the latter: sigmoid of -f
    return Inputs(dq, dk, dv, di + won, df), dstates[0], first + (dstates[0] * states[0]).sum((-1, -2))


def _decay_gradient(drawn: Tensor, given: Tensor, passed: Tensor, saved: Saved) -> Tensor:
    """The gradient of log_f (N, R, L) at a fixed m.

    A token's b raises what it draws, dh . h less the normalizer's part, and lowers what it gives, k . dk; the last b of
    a chunk also raises all that is passed on (N, R).
    """
    ddecay = drawn * torch.where(saved.side != 0, EPS / saved.norm, 1) - given
    ddecay[..., -1] += passed
    return ddecay.flip(-1).cumsum(-1).flip(-1)


def _scan(added: Tensor, keep: Tensor, first: Tensor) -> Tensor:
    """states[0] = first, states[n + 1] = keep[n] states[n] + added[n]: (N + 1, R, K, E), for keep (N, R)."""
    states = added.new_empty(len(added) + 1, *first.shape)
    states[0] = first
    for chunk, factor in enumerate(keep[..., None, None]):
        torch.addcmul(added[chunk], states[chunk], factor, out=states[chunk + 1])
    return states


def _scan_back(added: Tensor, keep: Tensor, last: Tensor) -> Tensor:
    """states[N] = last, states[n] = keep[n] states[n + 1] + added[n]: (N + 1, R, K, E), for keep (N, R)."""
    states = added.new_empty(len(added) + 1, *last.shape)
    states[-1] = last
    for chunk in reversed(range(len(added))):
        torch.addcmul(added[chunk], states[chunk + 1], keep[chunk, :, None, None], out=states[chunk])
    return states
