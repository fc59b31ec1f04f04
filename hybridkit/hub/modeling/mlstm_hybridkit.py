"""mLSTM, a recurrent mixer with a matrix memory (xLSTM, arXiv 2405.04517; the block of xLSTM-7B, arXiv 2503.13427).

    y = out(sigmoid(ogate(x)) * norm(h)),  with f~ = logsigmoid(f):

    m_t = max(f~_t + m_{t-1}, i_t)
    C_t = exp(f~_t + m_{t-1} - m_t) C_{t-1} + exp(i_t - m_t) k_t v_t^T          n_t likewise, with 1 for v_t
    h_t = C_t^T q_t / (max(|n_t . q_t|, exp(-m_t)) + eps)                       q scaled by K^-1/2

Read in chunks: inside one, pairs of tokens are weighed against each other; the memory goes from one to the next.
B batch, T tokens, D width, H heads, K and V width of a head's key and value, L tokens of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GATE_CAP, EPS, CHUNK = 15.0, 1e-6, 64


class HeadNorm(nn.Module):
    """LayerNorm of each head apart, with one weight a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        """(B, T, H, V) to (B, T, D)."""
        return F.layer_norm(h, h.shape[-1:], eps=EPS).flatten(2) * self.weight


class MLSTM(nn.Module):
    """The block `mlstm`. Its state is (C, n, m): (B, H, K, V), (B, H, K) and (B, H), in fp32."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, self.heads, self.layer_idx = config.hidden_size, said["heads"], index
        self.q = nn.Linear(width, width // 2, bias=False)
        self.k = nn.Linear(width, width // 2, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.igate = nn.Linear(width, self.heads)
        self.fgate = nn.Linear(width, self.heads)
        self.ogate = nn.Linear(width, width, bias=False)
        self.norm = HeadNorm(width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, positions: Tensor, **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen`: which tokens are no padding; None: all."""
        q, k, v = (part(x).unflatten(2, (self.heads, -1)).transpose(1, 2).float() for part in (self.q, self.k, self.v))
        q = q * q.shape[-1] ** -0.5
        i, f = (self.capped(gate, x).transpose(1, 2) for gate in (self.igate, self.fgate))  # (B, H, T)
        fall = F.logsigmoid(f)
        if seen is not None:  # padding neither writes nor forgets
            real = seen[:, None, -x.shape[1] :].bool()
            i, fall = i.masked_fill(~real, -torch.inf), fall.masked_fill(~real, 0)
        if state is None:
            shape = (*q.shape[:2], q.shape[-1])
            state = (q.new_zeros(*shape, v.shape[-1]), q.new_zeros(shape), q.new_zeros(shape[:2]))
        parts = []
        for cut in zip(*(part.split(CHUNK, 2) for part in (q, k, v, i, fall)), strict=True):
            h, state = chunk(*cut, *state)
            parts.append(h)
        h = torch.cat(parts, 2).transpose(1, 2)
        y = torch.sigmoid(self.ogate(x)) * self.norm(h.to(x.dtype))
        return self.out(y), state

    def capped(self, gate: nn.Linear, x: Tensor) -> Tensor:
        """Pre-activations (B, T, H) in fp32, softly capped at 15."""
        said = F.linear(x.float(), gate.weight.float(), gate.bias.float())
        return GATE_CAP * torch.tanh(said / GATE_CAP)


def chunk(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, fall: Tensor, C: Tensor, n: Tensor, m: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """h (B, H, L, V) of q, k (B, H, L, K), v (B, H, L, V), i and f~ (B, H, L), and the state after them."""
    decay = fall.cumsum(-1)
    order = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    logs = (decay[..., :, None] - decay[..., None, :] + i[..., None, :]).masked_fill(~order, -torch.inf)
    carried = decay + m[..., None]
    top = torch.maximum(carried, logs.amax(-1))  # m_t: (B, H, L)
    weights = torch.exp(logs - top[..., None]) * (q @ k.mT)
    before = torch.exp(carried - top)[..., None]
    total = weights.sum(-1, keepdim=True) + before * (q @ n[..., None])
    h = (weights @ v + before * (q @ C)) / (torch.maximum(total.abs(), torch.exp(-top)[..., None]) + EPS)
    last = top[..., -1]
    write = torch.exp(decay[..., -1:] - decay + i - last[..., None])[..., None] * k  # (B, H, L, K)
    keep = torch.exp(carried[..., -1] - last)
    return h, (keep[..., None, None] * C + write.mT @ v, keep[..., None] * n + write.sum(2), last)
