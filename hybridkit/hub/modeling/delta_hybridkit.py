"""Gated DeltaNet (arXiv 2412.06464) and Kimi Delta Attention (arXiv 2510.26692): memories that erase before they write.

    S_t = (1 - beta_t k_t k_t^T) diag(exp(g_t)) S_{t-1} + beta_t k_t v_t^T        o_t = S_t^T q_t
    y = out(norm(o) * gate(x))

q, k and v pass a short convolution and SiLU; q and k are divided by their length, and q by sqrt(K). The log decay g is
one number a head (Gated DeltaNet) or one a channel of the key (Kimi Delta Attention). Text is read in chunks: with b
the sum of g inside one, and u_t what token t writes, (1 + beta kk) U = beta (V - (exp(b) K) S), one triangular system.

B batch, T tokens, L tokens of a chunk, D width, H heads, K and V width of a key and a value, G = 1 or K.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shared_hybridkit import Convolution, falls, hide, wide

CHUNK = {True: 64, False: 16}  # tokens, with one decay a head, and with one a channel
GATES = {"silu": F.silu, "sigmoid": torch.sigmoid}


class DeltaRule(nn.Module):
    """What both share. The state is S (B, H, K, V) in fp32, and the convolution's last inputs."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        width, self.heads, self.key_heads = config.hidden_size, said["heads"], said["key_heads"]
        self.key, self.value, self.layer_idx = said["head"], said["value"], index
        self.top = 2.0 if said.get("allow_neg_eigval") else 1.0
        self.eps = said.get("norm_eps", 1e-5)
        self.sizes = [self.key_heads * self.key, self.key_heads * self.key, self.heads * self.value]
        self.q, self.k, self.v = (nn.Linear(width, size, bias=False) for size in self.sizes)
        self.b = nn.Linear(width, self.heads, bias=False)
        self.conv = Convolution(sum(self.sizes), said.get("conv", 4), said.get("conv_bias", False))
        self.norm = nn.Parameter(torch.ones(self.value))
        self.out = nn.Linear(self.heads * self.value, width, bias=False)
        self.A_log = nn.Parameter(torch.zeros(self.heads))

    def decay(self, x: Tensor) -> Tensor:
        """g (B, T, H, G), in fp32 and at most 0."""
        raise NotImplementedError

    def gates(self, x: Tensor) -> Tensor:
        """(B, T, H V)."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, **given: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen`: which tokens are no padding; None: all."""
        S, before = state or (x.new_zeros(len(x), self.heads, self.key, self.value, dtype=torch.float32), None)
        mixed, before = self.conv(torch.cat([self.q(x), self.k(x), self.v(x)], -1), before, seen)
        q, k, v = F.silu(mixed).split(self.sizes, -1)
        q, k = (self.unit(part) for part in (q, k))
        beta = hide(torch.sigmoid(wide(self.b, x)) * self.top, seen)  # padding neither writes nor forgets
        o, S = delta_rule(q * self.key**-0.5, k, v.unflatten(-1, (self.heads, -1)), beta, hide(self.decay(x), seen), S)
        o = F.rms_norm(o, (self.value,), self.norm.float(), self.eps)
        return self.out((o.flatten(2) * self.gates(x)).to(x.dtype)), (S, before)

    def unit(self, part: Tensor) -> Tensor:
        """Keys of length 1, each repeated for the heads that share it: (B, T, H, K)."""
        part = part.unflatten(-1, (self.key_heads, -1))
        part = part * torch.rsqrt(part.square().sum(-1, keepdim=True) + 1e-6)
        return part.repeat_interleave(self.heads // self.key_heads, 2)


class GatedDeltaNet(DeltaRule):
    """The block `gdn`."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__(config, said, index)
        self.act = GATES.get(said.get("gate", "silu"))
        self.a = nn.Linear(config.hidden_size, self.heads, bias=False)
        self.gate = None
        if self.act is not None:
            self.gate = nn.Linear(config.hidden_size, self.sizes[2], bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))

    def decay(self, x: Tensor) -> Tensor:
        return (F.softplus(wide(self.a, x) + self.dt_bias.float()) * -self.A_log.float().exp())[..., None]

    def gates(self, x: Tensor) -> Tensor:
        return x.new_ones(()) if self.gate is None else self.act(self.gate(x).float())


class KimiDeltaAttention(DeltaRule):
    """The block `kda`."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__(config, said, index)
        width, low = config.hidden_size, said.get("low_rank", True)
        self.lower_bound, rank = said.get("lower_bound"), self.value if low else width
        self.f_a, self.g_a = (nn.Linear(width, self.value, bias=False) if low else None for _ in range(2))
        self.f_b = nn.Linear(rank, self.heads * self.key, bias=False)
        self.g_b = nn.Linear(rank, self.sizes[2], bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(self.sizes[2])) if said.get("gate_bias") else None
        self.dt_bias = nn.Parameter(torch.zeros(self.heads * self.key))

    def decay(self, x: Tensor) -> Tensor:
        f = self.f_b(x if self.f_a is None else self.f_a(x)).float() + self.dt_bias.float()
        f, rate = f.unflatten(-1, (self.heads, -1)), self.A_log.float().exp()[:, None]
        return -rate * F.softplus(f) if self.lower_bound is None else self.lower_bound * torch.sigmoid(rate * f)

    def gates(self, x: Tensor) -> Tensor:
        gate = self.g_b(x if self.g_a is None else self.g_a(x)).float()
        return torch.sigmoid(gate if self.gate_bias is None else gate + self.gate_bias.float())


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) and S after it, from q, k (B, T, H, K), v (B, T, H, V), beta (B, T, H) and g (B, T, H, G)."""
    parts = [part.transpose(1, 2).split(CHUNK[g.shape[-1] == 1], 2) for part in (q, k, v, beta[..., None], g)]
    outputs = []
    for cut in zip(*parts, strict=True):
        o, S = chunk(*cut, S)
        outputs.append(o)
    return torch.cat(outputs, 2).transpose(1, 2), S


def chunk(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """o (B, H, L, V) and S after it, from q, k (B, H, L, K), v (B, H, L, V), beta (B, H, L, 1) and g (B, H, L, G)."""
    b = g.cumsum(2)
    fall, grown = falls(b), b.exp()
    system = beta * pairs(k, k, fall)  # its diagonal and what is above it are not read
    U = torch.linalg.solve_triangular(system, beta * (v - (grown * k) @ S), upper=False, unitriangular=True)
    o = (grown * q) @ S + pairs(q, k, fall) @ U
    last = b[:, :, -1:]
    return o, last.exp().mT * S + ((last - b).exp() * k).mT @ U


def pairs(a: Tensor, k: Tensor, fall: Tensor) -> Tensor:
    """a_t . (fall_ts k_s) for all pairs of tokens (B, H, L, L); fall (B, H, L, L, G)."""
    if fall.shape[-1] == 1:
        return fall[..., 0] * (a @ k.mT)
    return torch.einsum("bhtk,bhsk,bhtsk->bhts", a, k, fall)
