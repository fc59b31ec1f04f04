"""Multi-head latent attention: keys and values of all heads are read from one short latent vector a token.

    l_t = RMSNorm(down x_t)         r_t = rotated(rope x_t)              cached: l and r, nothing else
    k_t^h = [K^h l_t, r_t]          v_t^h = V^h l_t                      `expand` holds K^h and V^h of every head
    q_t^h = [q'^h, rotated(q''^h)]  of q x_t, or with `q_rank` of q RMSNorm(q_down x_t)
    y_t = out sum_s p_ts^h v_s^h,   p = softmax over s <= t of scale q_t^h . k_s^h

(arXiv 2405.04434, section 2.1; DeepSeek-V3, Kimi Linear.) Training and prefill expand l to keys and values. A step does
not: it takes q'^h K^h as a query of the latents themselves, and V^h of their weighted sum, so that the cache is read as
it is, in rank + rope_head numbers a token. FLOPs are those of the expanded form, also of a step, which multiplies more
and reads less. `theta=null` leaves r and q'' unrotated (Kimi Linear).

B batch, T tokens of this call, S keys, D width, H heads, E width of q' and K l, R of the rotated part, V of a value, C
the latent's rank. Published checkpoints rotate neighbouring channels; ours rotate halves: an importer sorts the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import (
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    Linear,
    State,
    StepFunction,
    product_flops,
    small_init_,
    wang_init_,
)
from hybridkit_blocks.ops import kv_cache, latent_step
from hybridkit_blocks.ops.attend import attend, kernel
from hybridkit_blocks.ops.attention import PAIRS, documents_of
from hybridkit_blocks.ops.rope import rotate
from hybridkit_blocks.ops.rope_options import RopeOptions
from hybridkit_blocks.ops.scores import Scores, probabilities

LATENT_EPS = 1e-6  # of the norms of latents in the published models, whatever the model's own


class LatentSizes(NamedTuple):
    """Heads; widths of a head's unrotated part, of the shared rotated part, of a value; ranks of the latents."""

    heads: int
    head: int
    rope: int
    value: int
    rank: int
    q_rank: int | None


class _Sizes(Block):
    """The first arguments, in the order in which a pattern may give them without a key."""

    heads: int | None = Field(None, ge=1)
    head: int | None = Field(None, ge=1)  # of queries and keys without the rotated part
    rank: int | None = Field(None, ge=1)
    rope_head: int | None = Field(None, ge=0)  # the part of a key that all heads share
    value_head: int | None = Field(None, ge=1)
    q_rank: int | None = Field(None, ge=1)
    theta: float | None = Field(10000.0, gt=0)


class LatentAttention(RopeOptions, _Sizes):
    """Causal softmax attention over everything so far, from a latent of keys and values."""

    differentiable_state: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool] = True
    scale: float | None = Field(None, gt=0)

    def shape(self, dims: Dims) -> LatentSizes:
        """The sizes at these dims, by default in DeepSeek-V3's proportions. Raises ValueError where they do not fit."""
        heads = self.heads or dims.heads
        if self.head is None and dims.width % heads:
            raise ValueError(f"{heads} heads do not divide the width {dims.width}: choose a divisor, or give head=")
        head = self.head or dims.width // heads
        rope = -(-head // 4) * 2 if self.rope_head is None else self.rope_head
        if self.theta is not None and rope % 2:
            raise ValueError(f"rotary positions need an even rope_head, not {rope}: choose {rope + 1}, or theta=null")
        return LatentSizes(heads, head, rope, self.value_head or head, self.rank or 4 * head, self.q_rank)

    def resolved(self, dims: Dims) -> Self:
        size = self.shape(dims)
        sizes = {"heads": size.heads, "head": size.head, "rank": size.rank, "q_rank": size.q_rank}
        return self.model_copy(update={**sizes, "rope_head": size.rope, "value_head": size.value})

    def build(self, dims: Dims) -> Layer:
        return Latent(dims, self)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        multiply = product_flops(count)
        linear = sum(multiply(tokens, *size) for size in _products(self.shape(dims), dims.width).values())
        return linear + 2 * _channels(self.shape(dims), count) * PAIRS[count](tokens, tokens)

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """Each query times the keys that it sees, and their values. None for `hardware`."""
        if count == "hardware":
            return None
        size = self.shape(dims)
        q, k = torch.zeros(size.heads, 1, size.head + size.rope), torch.zeros(size.heads, size.head + size.rope, tokens)
        v = torch.zeros(size.heads, tokens, size.value)
        seen = range(1, tokens + 1) if count == "exact" else [tokens] * tokens
        return lambda: [(q @ k[..., :n]) @ v[:, :n] for n in seen]

    def init_state(
        self,
        dims: Dims,
        batch: int,
        tokens: int,
        window: GivenWindow = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> kv_cache.KV:
        size = self.shape(dims)
        return kv_cache.empty_cache(batch, 1, (size.rank, size.rope), tokens, None, device, dtype)

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        return kernel(device)


def _products(size: LatentSizes, width: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every projection."""
    queries = size.heads * (size.head + size.rope)
    through = {"q": (width, queries)}
    if size.q_rank is not None:
        through = {"q_down": (width, size.q_rank), "q": (size.q_rank, queries)}
    return through | {
        "down": (width, size.rank),
        "rope": (width, size.rope),
        "expand": (size.rank, size.heads * (size.head + size.value)),
        "out": (size.heads * size.value, width),
    }


def _channels(size: LatentSizes, count: Count) -> int:
    """Multiply-adds of one query and key; a CPU's kernel fills the narrower of key and value with zeros."""
    key, value = size.head + size.rope, size.value
    return size.heads * (2 * max(key, value) if count == "hardware" else key + value)


class Latent(Layer):
    """A state's `k` holds latents (B, 1, S, C), its `v` the rotated parts (B, 1, S, R)."""

    supports_sequence_parallel = True

    q: nn.Linear
    q_down: nn.Linear
    down: nn.Linear
    rope: nn.Linear
    expand: nn.Linear
    out: nn.Linear

    def __init__(self, dims: Dims, block: LatentAttention) -> None:
        super().__init__()
        self.size = size = block.shape(dims)
        self.rotary = block.rope_of(size.rope, block.theta)
        self._scores = Scores(block.scale or (size.head + size.rope) ** -0.5)
        made = {name: Linear(*shape, bias=False) for name, shape in _products(size, dims.width).items() if all(shape)}
        for name, projection in made.items():
            self.add_module(name, projection)
            wang_init_(projection.weight, dims) if name == "out" else small_init_(projection.weight)
        self.norm = nn.RMSNorm(size.rank, eps=LATENT_EPS)
        self.q_norm = nn.RMSNorm(size.q_rank, eps=LATENT_EPS) if size.q_rank is not None else None

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, kv_cache.KV]:
        """(B, T, D) to (B, T, D) and the latents of all tokens so far. Raises ValueError for a window: it has none."""
        assert state is None or isinstance(state, kv_cache.KV)
        if window is not None:
            raise ValueError(f"mla sees all positions and takes no window (got {window}): use swa")
        tokens, past = x.shape[1], kv_cache.read_cache(state, None)
        begin = past.position if past else self.sequence_parallel.begin(tokens)
        q, latent, turned = self.project(x, torch.arange(begin, begin + tokens, device=x.device))
        if past:
            latent, turned = torch.cat([*past.k, latent], 1), torch.cat([*past.v, turned], 1)
        q, k, v = map(self.sequence_parallel.gather, (q, *self.expand_(latent, turned)))
        y = self.sequence_parallel.scatter(attend(q, k, v, None, documents_of(past, document_starts, x), self._scores))
        after = kv_cache.write_cache(past, latent, turned, q.shape[1], None, None, document_starts)
        return self.out(y.flatten(2)).to(x.dtype), after

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, E + R), latents (B, T, 1, C) and rotated parts (B, T, 1, R) at positions (T,) or (B, T)."""
        size = self.size
        q = self.q(x if self.q_norm is None else _normed(self.q_norm, self.q_down(x)))
        q = q.unflatten(2, (size.heads, -1))
        latent = _normed(self.norm, self.down(x)).to(q.dtype)[:, :, None]
        turned = self.rope(x)[:, :, None] if size.rope else latent[..., :0]
        if self.rotary is not None:
            angles = self.rotary.angles(positions, x.dtype)
            fixed, turning = q.split((size.head, size.rope), -1)
            q = torch.cat([fixed, rotate(turning, angles).to(q.dtype)], -1)
            turned = rotate(turned, angles).to(q.dtype)
        return q, latent, turned

    def expand_(self, latent: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, S, H, E + R) and values (B, S, H, V)."""
        size = self.size
        both = self.expand(latent[:, :, 0]).unflatten(2, (size.heads, -1))
        k, v = both.split((size.head, size.value), -1)
        return torch.cat([k, turned.expand(*k.shape[:3], -1)], -1), v

    def reserve(self, state: State, tokens: int) -> kv_cache.KV:
        assert isinstance(state, kv_cache.KV)
        return kv_cache.enlarge(state, tokens, None)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        q, latent, turned = self.project(x, state.position[:, None])
        y = self._absorbed(q[:, 0], latent[:, 0], turned[:, 0], state)
        after = kv_cache.append_(state, latent.transpose(1, 2), turned.transpose(1, 2))
        return self.out(y.flatten(1)[:, None]).to(x.dtype), after

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        size, down, rope = self.size, getattr(self, "q_down", None), getattr(self, "rope", None)
        sizes, scale = (size.heads, size.head, size.rope), self._scores.scale or 1
        own = (down, self.q_norm, self.q, self.down, self.norm, rope, self.rotary, self.expand, self.out)
        return latent_step.latent_decoder(latent_step.LatentParts(norm, *own, sizes, scale), rows)

    def _absorbed(self, q: Tensor, latent: Tensor, turned: Tensor, state: kv_cache.KV) -> Tensor:
        """One token's q (B, H, E + R), latent (B, 1, C), rotated part (B, 1, R) over the cache: (B, H, V)."""
        size, kind = self.size, state.k.dtype
        into, out = self.expand.weight.to(kind).unflatten(0, (size.heads, -1)).split((size.head, size.value), 1)
        fixed, turning = q.to(kind).split((size.head, size.rope), -1)
        query = torch.einsum("bhe,hec->bhc", fixed, into)
        cached, own = state.k[:, 0], latent.to(kind)  # (B, S, C), (B, 1, C)
        s = torch.cat([query @ cached.mT, query @ own.mT], -1)
        if size.rope:
            s = s + torch.cat([turning @ state.v[:, 0].mT, turning @ turned.to(kind).mT], -1)
        hidden = F.pad(~kv_cache.visible(state), (0, 1))[:, None]  # (B, 1, S + 1)
        wide = s.to(torch.promote_types(kind, torch.float32)) * (self._scores.scale or 1)
        p = probabilities(wide, hidden, None, None).to(kind)
        read = p[..., :-1] @ cached + p[..., -1:] * own  # (B, H, C)
        return torch.einsum("bhc,hvc->bhv", read, out).to(q.dtype)


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """In the weight's type: autocast leaves that fp32, and makes x bf16."""
    y: Tensor = norm(x.to(norm.weight.dtype))
    return y.to(x.dtype)
