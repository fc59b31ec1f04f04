"""Mamba-2 (arXiv 2405.21060): a matrix for each head, which decays by a step that the input sets.

    z, xBC, dt = in_proj(u)          x, B, C = silu(conv(xBC))          dt = softplus(dt + dt_bias)
    S_t = exp(-exp(A_log) dt_t) S_{t-1} + dt_t x_t B_t^T                y_t = S_t C_t + D x_t
    out = out_proj(norm(y * silu(z)))

Text is read in chunks: inside one, pairs of tokens are weighed against each other; S goes from one to the next.
B batch, T tokens, L tokens of a chunk, H heads, P width of a head, I = H P, G groups that share B and C, N state width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shared_hybridkit import Convolution, falls, hide

CHUNK, EPS = 64, 1e-5


class GatedNorm(nn.Module):
    """RMSNorm of y * silu(z) over groups of channels; without groups, the gate alone."""

    def __init__(self, width: int, groups: int | None) -> None:
        super().__init__()
        self.groups, self.weight = groups, nn.Parameter(torch.ones(width)) if groups else None

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """(B, T, I) to the same, in fp32."""
        h = y * F.silu(z.float())
        if self.weight is None:
            return h
        h = h.unflatten(-1, (self.groups, -1))
        return F.rms_norm(h, h.shape[-1:], eps=EPS).flatten(-2) * self.weight.float()


class Mamba2(nn.Module):
    """The block `mamba2`. Its state is the convolution's last inputs, and S (B, H, P, N) in fp32."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        self.said, self.layer_idx, width = said, index, config.hidden_size
        self.heads, self.head, self.state = said["heads"], said["head"], said.get("state", 128)
        self.groups, bias = said.get("groups", 1), said.get("bias", False)
        inner, shared = self.heads * self.head, self.groups * self.state
        self.sections = [inner, inner, shared, shared, self.heads]  # z, x, B, C, dt
        self.scales = [said.get(f"{part}_scale", 1.0) for part in ("z", "x", "b", "c", "dt")]
        self.in_proj = nn.Linear(width, sum(self.sections), bias=bias)
        self.conv = Convolution(inner + 2 * shared, said.get("conv", 4), said.get("conv_bias", True))
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.zeros(self.heads)) for _ in range(3))
        over = {"group": self.groups, "all": 1, "none": None}[said.get("gate_norm", "group")]
        self.norm = GatedNorm(inner, over)
        self.out_proj = nn.Linear(inner, width, bias=bias)

    def forward(
        self, u: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, **given: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen`: which tokens are no padding; None: all."""
        empty = u.new_zeros(len(u), self.heads, self.head, self.state, dtype=torch.float32)
        before, S = state or (None, empty)
        parts = zip(self.in_proj(u).split(self.sections, -1), self.scales, strict=True)
        z, *mixed, dt = (part if scale == 1 else part * scale for part, scale in parts)
        convolved, before = self.conv(torch.cat(mixed, -1), before, seen)
        x, b, c = F.silu(convolved).split(self.sections[1:4], -1)
        x = x.unflatten(-1, (self.heads, -1))
        b, c = (part.unflatten(-1, (self.groups, -1)) for part in (b, c))
        b, c = (part.repeat_interleave(self.heads // self.groups, 2) for part in (b, c))
        dt = F.softplus(dt.float() + self.dt_bias.float()).clamp(self.said.get("dt_min", 0.0), self.said.get("dt_max"))
        dt = hide(dt, seen)  # padding neither writes nor forgets
        y, S = scan(x, b, c, dt, dt * -self.A_log.float().exp(), S)
        y = (y + self.D.float()[:, None] * x).flatten(2)
        return self.out_proj(self.norm(y, z).to(u.dtype)), (before, S)


def scan(x: Tensor, b: Tensor, c: Tensor, dt: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """y (B, T, H, P) and S after it, from x (B, T, H, P), b, c (B, T, H, N), steps dt and log decays g (B, T, H)."""
    cuts = [part.transpose(1, 2).split(CHUNK, 2) for part in (x * dt[..., None], b, c, g[..., None])]
    outputs = []
    for x_, b_, c_, g_ in zip(*cuts, strict=True):  # (B, H, L, .)
        logs = g_.cumsum(2)
        last = logs[:, :, -1:]
        outputs.append((falls(logs)[..., 0] * (c_ @ b_.mT)) @ x_ + logs.exp() * (c_ @ S.mT))
        S = last.exp() * S + (x_ * (last - logs).exp()).mT @ b_
    return torch.cat(outputs, 2).transpose(1, 2), S
