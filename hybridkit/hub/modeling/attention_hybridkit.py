"""Softmax attention with rotary positions over grouped heads, over everything so far or a sliding window.

B batch, T tokens of this call, n cached ones, S = n + T keys, D width, H heads, K key-value heads, E width of a head.

    y_t = out sum_s p_ts v_s,   p_ts = softmax over s in (t - window, t] of scale q_t . k_s

Options: norms of queries and keys, an output gate, sinks, a soft cap of the scores, biases, rotary positions on a share
of the head and stretched (linear, llama3, yarn).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BLOCK = 256  # queries at a time, at least, where a window is shorter than the text


class Attention(nn.Module):
    """The blocks `sa` and `swa`. Its state is (k, v), each (B, K, n, E), with the last window - 1 tokens."""

    is_causal = True

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        self.config, self.said, self.layer_idx = config, said, index
        width, heads, kv_heads, self.head_dim = config.hidden_size, said["heads"], said["kv_heads"], said["head"]
        self.window = self.sliding_window = said.get("window")
        self.num_key_value_groups = heads // kv_heads
        self.scaling = said.get("scale") or self.head_dim**-0.5
        self.softcap = said.get("softcap")
        given, norms = said.get("bias", False), said.get("qk_norm", False)
        bias = given in (True, "qkv")
        self.q = nn.Linear(width, heads * self.head_dim, bias=bias)
        self.k = nn.Linear(width, kv_heads * self.head_dim, bias=bias)
        self.v = nn.Linear(width, kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(heads * self.head_dim, width, bias=given in (True, "out"))
        self.gate = nn.Linear(width, heads * self.head_dim, bias=bias) if said.get("gate") else None
        self.sinks = nn.Parameter(torch.zeros(heads)) if said.get("sinks") else None
        if norms:
            sizes = (heads, kv_heads) if norms == "projection" else (1, 1)
            self.q_norm, self.k_norm = (nn.RMSNorm(n * self.head_dim, eps=config.norm_eps) for n in sizes)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, positions: Tensor, **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D) and the state after them. `seen` (B, S): which tokens are no padding; None: all."""
        q, k, v = self.project(x, positions)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        seen = None if seen is None else seen[:, -k.shape[2] :].bool()
        y = self.attend(q, k, v, seen, **options).flatten(2)
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(x))
        kept = k.shape[2] if self.window is None else min(k.shape[2], self.window - 1)
        begin = k.shape[2] - kept
        after = (k, v) if not begin else (k[:, :, begin:].clone(), v[:, :, begin:].clone())
        return self.out(y), after

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, E), keys and values (B, K, T, E), rotated to their positions (B, T)."""
        q, k, v = (part(x) for part in (self.q, self.k, self.v))
        if self.said.get("qk_norm") == "projection":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        if self.said.get("qk_norm") is True:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.said.get("theta"):
            cos, sin = self.angles(positions)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q, k, v

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, 1, T, R / 2) of the R channels that turn. Float64: fp32 is too coarse at large ones."""
        speeds, magnitude = rope_speeds(self.said, self.head_dim)
        kind = torch.float32 if positions.device.type == "mps" else torch.float64
        angles = positions[:, None, :, None].to(kind) * speeds.to(positions.device, kind)
        return (angles.cos() * magnitude).float(), (angles.sin() * magnitude).float()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, **options: Any) -> Tensor:
        """(B, T, H, E). A long text is read in blocks of queries, each with the keys that its window reaches."""
        name, (tokens, keys) = self.config._attn_implementation, (q.shape[2], k.shape[2])
        if self.window is None or tokens <= max(BLOCK, self.window) or name not in ("eager", "sdpa"):
            return self.attend_block(q, k, v, seen, **options)
        parts, size = [], max(BLOCK, self.window)
        for begin in range(0, tokens, size):
            end = min(begin + size, tokens)
            first, last = max(0, keys - tokens + begin - self.window + 1), keys - tokens + end
            cut = slice(first, last)
            own = None if seen is None else seen[:, cut]
            parts.append(self.attend_block(q[:, :, begin:end], k[:, :, cut], v[:, :, cut], own, **options))
        return torch.cat(parts, 1)

    def attend_block(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, **options: Any) -> Tensor:
        """By the implementation that the config names; by plain products where there are sinks or a soft cap."""
        run = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        if self.sinks is not None or self.softcap is not None:
            run = eager_attention
        mask = self.mask(q, k, seen)
        return run(
            self, q, k, v, mask, dropout=0.0, scaling=self.scaling, sliding_window=self.sliding_window, **options
        )[0]

    def mask(self, q: Tensor, k: Tensor, seen: Tensor | None) -> Tensor | None:
        """Which keys each query sees: (B or 1, 1, T, S) bool; None where that is all before it, and it."""
        tokens, keys = q.shape[2], k.shape[2]
        narrow = self.window is not None and self.window < keys
        if seen is None and not narrow and tokens in (1, keys):
            return None
        own = torch.arange(keys - tokens, keys, device=q.device)[:, None]
        other = torch.arange(keys, device=q.device)[None]
        visible = other <= own
        if narrow:
            visible = visible & (other > own - self.window)
        visible = visible[None, None]
        if seen is not None:  # a padded query sees itself: a row without any key has no softmax
            visible = visible & (seen[:, None, None] | (other == own))
        return visible


def eager_attention(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, **options: Any
) -> tuple[Tensor, Tensor]:
    """Attention by plain products: outputs (B, T, H, E) and probabilities (B, H, T, S)."""
    k, v = (part.repeat_interleave(module.num_key_value_groups, 1) for part in (k, v))
    scores = (q @ k.mT).float() * scaling
    if module.softcap is not None:
        scores = module.softcap * torch.tanh(scores / module.softcap)
    if mask is None and q.shape[2] > 1:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if module.sinks is not None:
        sinks = module.sinks.float()[:, None, None].expand(len(q), -1, q.shape[2], 1)
        scores = torch.cat([scores, sinks], -1)
    p = F.softmax(scores, -1)[..., : k.shape[2]].to(q.dtype)
    return (p @ v).transpose(1, 2).contiguous(), p


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first R channels of x (B, H, T, E), halves against each other; the others stay."""
    size = 2 * cos.shape[-1]
    a, b = x[..., :size].float().chunk(2, -1)
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
    return turned if size == x.shape[-1] else torch.cat([turned, x[..., size:]], -1)


def rope_speeds(said: dict[str, Any], head: int) -> tuple[Tensor, float]:
    """Radians a token of every pair (R / 2,), and what rotated channels are multiplied by.

    linear: all slower by `factor`. llama3 and yarn: pairs with few turns in `original` tokens are slower by the
    factor, pairs with many stay, and those between are mixed (arXiv 2309.00071).
    """
    half = int(head * said.get("rope", 1.0) + 1e-9) // 2
    theta, kind, factor = said["theta"], said.get("scaling"), said.get("factor", 1.0)
    plain = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    if kind is None:
        return plain, 1.0
    if kind == "linear":
        return plain / factor, 1.0
    original, slow, fast = said["original"], said["slow"], said.get("fast")
    if kind == "llama3":
        turns, fast = original * plain / (2 * math.pi), fast or 4.0
        kept = ((turns - slow) / (fast - slow)).clamp(0, 1)
        return plain * kept + plain / factor * (1 - kept), 1.0

    def pair(turns: float) -> float:
        return half * math.log(original / (2 * math.pi * turns)) / math.log(theta)

    low, high = pair(fast or 32.0), pair(slow)
    if said.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    steps = torch.arange(half, dtype=torch.float64) - low
    kept = 1 - (steps / (high - low if high != low else 1e-3)).clamp(0, 1)
    return plain * kept + plain / factor * (1 - kept), said.get("magnitude") or 1 + math.log(factor) / 10
