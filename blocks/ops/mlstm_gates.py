"""The gates of the chunkwise mLSTM: the weights of its matrix products, and the gradient through the log scale m.

    m_t = max(f~_t + m_{t-1}, i_t),  f~ = logsigmoid(f)

so m_t = max(b_t + m before the chunk, max over s <= t in the chunk of b_t - b_s + i_s), b the running sum of f~. The
pairs of tokens that lie in two documents are masked, and after a document's start the memory before it counts as
empty, with m = 0.

Letters: N chunks, L tokens a chunk, R rows (batch times heads), M = N R.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GATE_CAP = 15.0
NORM_EPS = 1e-6  # of the norm behind the cell


def capped_gate(gate: Tensor) -> Tensor:
    """Pre-activations between -15 and 15."""
    return GATE_CAP * torch.tanh(gate / GATE_CAP)


class ChunkGates(NamedTuple):
    """The gates, chunk by chunk: all that the matrix products need to know of i, f, m and documents."""

    log_f: Tensor  # (N, R, L)
    decay: Tensor  # (N, R, L): b, the sum of log_f from the chunk's first token on
    reach: Tensor  # (N, R, L): i - b
    m: Tensor  # (N, R, L)
    intake: Tensor  # (N, R, L): weight of the chunk's incoming memory in each token's output
    document_starts: Tensor | None  # (N, R, L): a document begins here; None where none does

    @property
    def keep(self) -> Tensor:
        """Weight of the incoming memory in the outgoing one (N, R)."""
        return self.intake[..., -1]

    def write(self) -> Tensor:
        """Weight of each token in the outgoing memory (N, R, L)."""
        weight = torch.exp(self.reach + (self.decay - self.m)[..., -1:])
        if self.document_starts is None:
            return weight
        document = self.document_starts.cumsum(-1)
        return weight * (document == document[..., -1:])

    def pairs(self, scale: float) -> Tensor:
        """D (M, L, L): `scale` times the weight of token s (last) in token t's output, 0 where t does not see s."""
        most = math.log(scale)
        logs = (self.decay - self.m + most)[..., None] + self.reach[..., None, :]
        weights = logs.clamp_(max=most).exp_().tril_()  # above the diagonal logs may be large
        return (weights if self.document_starts is None else weights.mul_(_same(self.document_starts))).flatten(0, 1)


def _same(document_starts: Tensor) -> Tensor:
    """Which pairs of tokens lie in one document (N, R, L, L)."""
    document = document_starts.cumsum(-1)
    return document[..., None] == document[..., None, :]


def gates(i: Tensor, f: Tensor, before: Tensor, document_starts: Tensor | None) -> ChunkGates:
    """From pre-activations i and f (N, R, L), m before the first chunk (R,) and starts (N, R, L)."""
    log_f = F.logsigmoid(f)
    decay = log_f.cumsum(-1)
    reach = i - decay
    if document_starts is None:
        fall, old = decay, torch.ones_like(decay)
        most = reach.cummax(-1).values + decay
    else:
        old = (document_starts.cumsum(-1) == 0).to(i.dtype)
        begin = (
            torch.where(document_starts, torch.arange(document_starts.shape[-1], device=i.device), 0).cummax(-1).values
        )
        fall = decay - (decay - log_f).gather(-1, begin)  # the sum of log_f since the document's or chunk's start
        most = torch.where(_same(document_starts).tril_(), reach[..., None, :], -torch.inf).amax(-1) + decay
    carried = fall + old * _scan(fall[..., -1], old[..., -1], most[..., -1], before)[..., None]
    m = torch.maximum(carried, most)
    return ChunkGates(log_f, decay, reach, m, torch.exp(carried - m) * old, document_starts)


def _scan(fall: Tensor, old: Tensor, most: Tensor, before: Tensor) -> Tensor:
    """m at every chunk's start (N, R), from the chunks' last tokens (N, R) and m before the first (R,)."""
    ms = [before]
    for falls, olds, mosts in zip(fall[:-1].unbind(), old[:-1].unbind(), most[:-1].unbind(), strict=True):
        ms.append(torch.maximum(torch.addcmul(falls, olds, ms[-1]), mosts))
    return torch.stack(ms)


def m_gradient(dm: Tensor, g: ChunkGates, i: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What gradients dm (N, R, L) of every m give i and log_f, (N, R, L), and m before the first token, (R,).

    From one token whose input gate is the maximum to the next, m changes by the forget gates alone. So the gradients of
    every m in between reach the i of the first of the two, and the log_f of the tokens that they pass.
    """
    chunks, (dm, m, i, log_f) = len(dm), (_line(t) for t in (dm, g.m, i, g.log_f))
    started = torch.zeros_like(i, dtype=torch.bool) if g.document_starts is None else _line(g.document_starts)
    won = i > log_f + torch.cat([before[:, None], m[:, :-1]], -1).masked_fill(started, 0)
    breaks, tokens = won | started, i.shape[-1]
    place = torch.where(breaks, torch.arange(tokens, device=i.device), tokens)
    following = F.pad(place[:, 1:], (0, 1), value=tokens).flip(-1).cummin(-1).values.flip(-1)  # the next break
    rest = F.pad(dm.flip(-1).cumsum(-1).flip(-1), (0, 1))  # sum of dm from here on
    run = rest[:, :-1] - rest.gather(-1, following)
    di, dlog_f = ((run * mask).unflatten(1, (chunks, -1)).transpose(0, 1) for mask in (won, ~won))
    return di, dlog_f, run[:, 0] * ~breaks[:, 0]


def _line(t: Tensor) -> Tensor:
    """The N chunks of (N, R, L) one after the other: (R, N L)."""
    return t.transpose(0, 1).flatten(1)
