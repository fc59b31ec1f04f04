"""Softmax attention with rotary positions over grouped heads: what the blocks `sa` and `swa` share.

B batch, T tokens of this call, n cached tokens, S = n + T keys, D width, H heads, K key-value heads, E width of a head.

    y_t = out sum_s p_ts v_s,   p_ts = softmax over s in (t - window, t] of q_t . k_s / sqrt(E)

(arXiv 1706.03762; grouped heads 2305.13245; window 2004.05150.) Projection, attention
and output projection are separate steps; those in between work on each head alone. Options, all off by default:

    rope=.25        only a share of each head turns, an even number of channels; scaling=...: see rope.py
    qk_norm=true    RMSNorm of each head's query and key (2010.04245); qk_norm=projection: of all heads as one (OLMo-2)
    gate=true       y_t = out (sigmoid(gate x_t) * sum_s p_ts v_s) (2505.06708, Qwen3-Next)
    sinks=true, softcap=50, scale=.1: see scores.py (gpt-oss, Gemma 2)
    bias=true       biases of all projections (gpt-oss); bias=qkv: of q, k, v (Qwen2); bias=out: of out (RecurrentGemma)

Models whose norms multiply by 1 + w need no option: their importer adds 1 to the weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from hybridkit.block import (
    ALL,
    AttentionWeights,
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    Linear,
    Start,
    State,
    StepFunction,
    WindowLimit,
    normal_,
    product_flops,
    small_init_,
    wang_init_,
    window_limit,
    window_of,
)
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.attend import HALF, attend, decode, kernel
from hybridkit_blocks.ops.attention_mapping import Heads, mapped
from hybridkit_blocks.ops.cpu.attention_step import Parts, normed
from hybridkit_blocks.ops.cpu.banded import bands
from hybridkit_blocks.ops.custom_autograd import product_type
from hybridkit_blocks.ops.joined import joined
from hybridkit_blocks.ops.rope import rotate
from hybridkit_blocks.ops.rope_options import RopeOptions
from hybridkit_blocks.ops.scores import Scores

SINK = 0.02  # initial size of sinks, as gpt-oss has it in transformers


class _Sizes(Block):
    """The first arguments, in the order in which a pattern may give them without a key."""

    heads: int | None = Field(None, ge=1)
    kv_heads: int | None = Field(None, ge=1)
    head: int | None = Field(None, ge=1)
    theta: float | None = Field(10000.0, gt=0)
    qk_norm: bool | Literal["projection"] = False

    @field_validator("qk_norm", mode="before")
    @classmethod
    def _of_each_head(cls, given: object) -> object:
        """`head` is another word for true."""
        return True if given == "head" else given


class AttentionBlock(RopeOptions, _Sizes):
    """What `sa` and `swa` share: their arguments, costs and state."""

    differentiable_state: ClassVar[bool] = True
    keeps_tokens: ClassVar[bool] = True
    rope: float = Field(1.0, gt=0, le=1)
    gate: bool = False
    sinks: bool = False
    softcap: float | None = Field(None, gt=0)
    scale: float | None = Field(None, gt=0)
    bias: bool | Literal["qkv", "out"] = False

    def shape(self, dims: Dims) -> Heads:
        """The heads at these dims. Raises ValueError where they do not fit together."""
        heads = self.heads or dims.heads
        kv_heads = self.kv_heads or heads
        if self.head is None and dims.width % heads:
            raise ValueError(f"{heads} heads do not divide the width {dims.width}: choose a divisor, or give head=")
        if heads % kv_heads:
            raise ValueError(f"kv_heads={kv_heads} does not divide {heads} heads: choose a divisor")
        size = self.head or dims.width // heads
        if self.theta is not None and self.rope == 1 and size % 2:
            raise ValueError(f"rotary positions need an even head, not {size}: choose head={size + 1}, or theta=null")
        if self.theta is not None and self.turning(size) < 2:
            raise ValueError(f"rope={self.rope:g} of a head of {size} turns no pair of channels: choose a larger share")
        return Heads(heads, kv_heads, size)

    def resolved(self, dims: Dims) -> Self:
        heads = self.shape(dims)
        return self.model_copy(update={"heads": heads.q, "kv_heads": heads.kv, "head": heads.size})

    def turning(self, head: int) -> int:
        """Channels of a head that turn: the share `rope` of them, rounded down to an even number."""
        return int(head * self.rope + 1e-9) // 2 * 2

    def build(self, dims: Dims) -> Attention:
        return Attention(dims, self)

    def reach(self, window: GivenWindow = None) -> int | None:
        return window_limit(window_of(self), window)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        heads, limit = self.shape(dims), window_limit(window_of(self), window)
        multiply = product_flops(count)
        linear = (3 if self.gate else 2) * multiply(tokens, dims.width, heads.size * heads.q)
        linear += 2 * multiply(tokens, dims.width, heads.size * heads.kv)
        return linear + 4 * heads.q * heads.size * PAIRS[count](tokens, min(limit or tokens, tokens))

    def cost_reference(
        self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact"
    ) -> Callable[[], object] | None:
        """Each query times the keys that it sees, queries that see equally many together. None for `hardware`."""
        if count == "hardware":
            return None
        heads, limit = self.shape(dims), window_limit(window_of(self), window) or tokens
        ages = range(tokens) if count == "exact" else [tokens] * tokens  # a query sees no more keys than there are
        seen = Counter(min(limit, age + (count == "exact")) for age in ages)
        q, keys = torch.zeros(heads.q, tokens, heads.size), torch.zeros(heads.q, heads.size, tokens)
        return lambda: [(q[:, :times] @ keys[..., :n]) @ keys[..., :n].mT for n, times in seen.items()]

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
        heads = self.shape(dims)
        return kv_cache.empty_cache(
            batch, heads.kv, heads.size, tokens, window_limit(window_of(self), window), device, dtype
        )

    def attention_weights(self, weights: Mapping[str, Tensor], dims: Dims) -> AttentionWeights:
        heads, own = self.shape(dims), self.resolved(dims)
        said = {name: getattr(own, name) for name in type(self).positional() if name != "window"}
        return AttentionWeights(heads.q, heads.kv, heads.size, weights, said)

    def from_attention(self, attention: AttentionWeights, dims: Dims) -> Sequence[Start]:
        """Every weight that both have (ops/attention_mapping.py)."""
        return mapped(self, attention, self.shape(dims))

    @classmethod
    def kernel(cls, device: str) -> tuple[str, str]:
        return kernel(device)


def _exact_pairs(tokens: int, window: int) -> int:
    return window * (window + 1) // 2 + (tokens - window) * window


def _executed_pairs(tokens: int, window: int) -> int:
    return sum(tile.blocks * tile.block * tile.reach for tile in bands(tokens, tokens, window))


PAIRS = {"exact": _exact_pairs, "paper": lambda tokens, window: tokens * window, "hardware": _executed_pairs}


class Attention(Layer):
    """Attention over all positions (`largest` None) or the last `window` of them."""

    supports_sequence_parallel = True

    def __init__(self, dims: Dims, block: AttentionBlock) -> None:
        super().__init__()
        heads, bias = block.shape(dims), block.bias in (True, "qkv")
        self.largest, self.head = window_limit(window_of(block)), heads.size
        self.has_policy = window_of(block) is not None
        self.rope = block.rope_of(block.turning(heads.size), block.theta)
        self.q = Linear(dims.width, heads.q * heads.size, bias=bias)
        self.k = Linear(dims.width, heads.kv * heads.size, bias=bias)
        self.v = Linear(dims.width, heads.kv * heads.size, bias=bias)
        self.out = Linear(heads.q * heads.size, dims.width, bias=block.bias in (True, "out"))
        self.q_norm, self.k_norm = (_norm(block, dims, heads.size, count) for count in (heads.q, heads.kv))
        self.gate = Linear(dims.width, heads.q * heads.size, bias=bias) if block.gate else None
        self.sinks = nn.Parameter(torch.empty(heads.q)) if block.sinks else None
        self._scores = Scores(block.scale, block.softcap)
        for projection in self.into:
            small_init_(projection.weight)
        wang_init_(self.out.weight, dims)
        for projection in (*self.into, self.out):
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        if self.sinks is not None:
            normal_(self.sinks, std=SINK)

    @property
    def into(self) -> list[nn.Linear]:
        """The projections of the input."""
        return [self.q, self.k, self.v, *([self.gate] if self.gate is not None else [])]

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, kv_cache.KV]:
        assert state is None or isinstance(state, kv_cache.KV)
        tokens = x.shape[1]
        limit = self._limit(window, state)
        past = None if isinstance(limit, Tensor) else kv_cache.read_cache(state, limit)  # a tensor: no state is carried
        begin = past.position if past else self.sequence_parallel.begin(tokens)
        projected = self.project(x, torch.arange(begin, begin + tokens, device=x.device))
        q, k, v = map(self.sequence_parallel.gather, projected)
        if past:
            k, v = torch.cat([*past.k, k], 1), torch.cat([*past.v, v], 1)
        documents = documents_of(past, document_starts, x)
        sinks = None if self.sinks is None else self.sequence_parallel.own_heads(self.sinks)
        y = self.sequence_parallel.scatter(attend(q, k, v, limit, documents, self._scores._replace(sinks=sinks)))
        return self._back(x, y), kv_cache.write_cache(past, k, v, q.shape[1], limit, self.largest, document_starts)

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, E), keys and values (B, T, K, E), rotated to their positions (T,) or (B, T)."""
        parts, kind = (self.q, self.k, self.v), product_type(x, self.q.weight)
        made = joined(x, parts, kind) if kind in HALF else [part(x) for part in parts]
        q, k, v = (t.unflatten(2, (-1, self.head)) for t in made)
        q, k = normed(self.q_norm, q), normed(self.k_norm, k)
        if self.rope is not None:
            angles = self.rope.angles(positions, x.dtype)
            q, k = rotate(q, angles), rotate(k, angles)
        return q.to(v.dtype), k.to(v.dtype), v

    def _back(self, x: Tensor, y: Tensor) -> Tensor:
        """From the heads' outputs y (B, T, H, E) for the input x to outputs (B, T, D)."""
        y = y.flatten(2)
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(x)).to(y.dtype)
        return self.out(y).to(x.dtype)

    def _limit(self, window: GivenWindow | Tensor, state: State | None) -> WindowLimit | Tensor:
        """The window in force; one that shapes a carried state is an integer."""
        if window is None:
            return self.largest
        if not self.has_policy:
            raise ValueError(f"sa sees all positions and takes no window (got {window}): use swa, or give it a policy")
        if isinstance(window, Tensor):
            if state is None:
                return window
            window = int(window)
        if window < 1:
            raise ValueError(f"a window is at least 1, not {window}")
        return None if window == ALL else window

    def reserve(self, state: State, tokens: int) -> kv_cache.KV:
        assert isinstance(state, kv_cache.KV)
        return kv_cache.enlarge(state, tokens, int(state.window.max()) or None)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        q, k, v = self.project(x, state.position[:, None])
        y = decode(q, k, v, state, self._scores._replace(sinks=self.sinks))
        return self._back(x, y), kv_cache.append_(state, k.transpose(1, 2), v.transpose(1, 2))

    def decoder(self, norm: nn.RMSNorm | None, rows: int) -> StepFunction:
        parts = Parts(norm, self.into, (self.q_norm, self.k_norm), self.out, self.head, self.rope)
        from hybridkit_blocks.ops.attention_step import token_decoder  # its operator takes time to register

        return token_decoder(parts, self._scores._replace(sinks=self.sinks), rows)


def _norm(block: AttentionBlock, dims: Dims, head: int, count: int) -> nn.Module:
    """The norm of the queries or keys of `count` heads."""
    if not block.qk_norm:
        return nn.Identity()
    return nn.RMSNorm(head * count if block.qk_norm == "projection" else head, eps=dims.norm_eps)


def documents_of(past: kv_cache.Past | None, document_starts: Tensor | None, x: Tensor) -> Tensor | None:
    """The number of its document for every key (B, n + T); None where all keys belong to one."""
    cached = past.documents if past else None
    if document_starts is None and cached is None:
        return None
    own = x.new_zeros(x.shape[:2], dtype=torch.int64) if document_starts is None else document_starts.cumsum(1)
    if past is None:
        return own
    if cached is None:
        cached = own.new_zeros(len(own), sum(piece.shape[1] for piece in past.k))
    return torch.cat([cached, own], 1)
