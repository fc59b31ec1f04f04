"""Attention in blocks of queries against their band of keys: time and memory grow with T, not with T^2.

N batch times key-value heads, G queries of a group that share a key, T queries, S = past + T keys, E width of a head,
n blocks of b queries each, L keys of a block's band.

A block of queries begin <= t < end sees no key outside of (begin - window, end). Bands of equal length are a strided
view of the keys, so torch's fused attention takes many blocks in one call, with one mask for them all, and nothing is
copied. The bands overlap, so their gradients must be added up: forward and backward kernels are called directly, some
blocks at a time, and autograd does not see the bands. The kernels compute in fp32 at least: what is bf16 is cast for
some blocks at a time, while it is in the cache, and kept for backward as it is.

A sink s (scores.py) changes the softmax's norm l into l' = log(e^l + e^s) and the output y into y' = y e^(l - l'). The
kernel's backward pass reads y and l alone; given y' and l' it is that of attention with the sink, and
ds = -e^(s - l') sum over channels of y' dy'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridkit.block import WindowLimit
from hybridkit_blocks.ops.cpu.capped import capped, capped_backward
from hybridkit_blocks.ops.precision import wide

GRADIENTS = 1 << 21  # numbers in the gradient of a call's bands: 8 MiB, near the caches' size
BandRun = Callable[..., tuple[Tensor, Tensor]]  # takes and returns what `banded_forward` does
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Bands(NamedTuple):
    """Blocks of `block` queries each from `begin` on, and the `reach` keys from `low` on that the first may see.

    The band of each further block begins `block` keys further on.
    """

    begin: int
    blocks: int
    block: int
    low: int
    reach: int


def bands(tokens: int, keys: int, window: WindowLimit) -> Iterator[Bands]:
    """All blocks of queries, those with bands of equal length together; the last query sits at the last key."""
    past, begin = keys - tokens, 0
    window = min(window or keys, keys)
    block = min(block_size(window), tokens)
    back = min(-(-(window - 1) // 8) * 8, keys)  # keys before a block's first, to a multiple of 8, which is faster
    while begin < tokens:
        size = min(block, tokens - begin)
        low = max(0, past + begin - back)
        blocks = max(1, (tokens - begin) // block) if past + begin >= back else 1
        yield Bands(begin, blocks, size, low, past + begin + size - low)
        begin += blocks * size


def block_size(window: int) -> int:
    """Queries of a block (measured): in small blocks fewer products are masked, large ones have faster products."""
    return 32 if window <= 128 else 64 if window <= 512 else 128


def banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: WindowLimit | Tensor,
    documents: Tensor | None,
    scale: float | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,  # (H,)
    run: BandRun | None = None,
) -> Tensor:
    """`attend` of attend.py on a CPU: q (B, T, H, E), k and v (B, S, K, E) to (B, T, H, E).

    `run` is what computes it: `forward` with its gradient, by default as an autograd function.
    """
    batch, kv_heads = len(q), k.shape[2]
    grouped = q.unflatten(2, (kv_heads, -1)).transpose(1, 2)  # (B, K, T, G, E)
    limit = window if isinstance(window, Tensor) else None
    out, _ = (run or _Banded.apply)(
        grouped.flatten(0, 1).contiguous(),
        *(x.to(q.dtype).transpose(1, 2).flatten(0, 1).contiguous() for x in (k, v)),
        None if sinks is None else sinks.to(wide(q.dtype)).view(kv_heads, -1).repeat(batch, 1),
        None if limit is not None else window,
        limit,
        None if documents is None else documents.repeat_interleave(kv_heads, 0),
        scale,
        cap,
    )
    return out.unflatten(0, (batch, kv_heads)).transpose(1, 2).flatten(2, 3)


class _Kernel(NamedTuple):
    """Attention of queries (N, n, R, E) to keys and values (N, n, L, E), its gradient, and what scores are."""

    scale: float | None
    cap: float | None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and the logarithms (N, n, R) of the softmax's norms."""
        if self.cap is None:
            made: tuple[Tensor, Tensor] = _FORWARD(q, k, v, attn_mask=mask, scale=self.scale)
            return made
        return capped(q, k, v, mask, self.scale or q.shape[-1] ** -0.5, self.cap)

    def backward(self, *given: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v, for dy, q, k, v, y and those logarithms."""
        if self.cap is None:
            made: tuple[Tensor, Tensor, Tensor] = _BACKWARD(*given, 0.0, False, attn_mask=mask, scale=self.scale)
            return made
        dy, q, k, v, y, norm = given
        return capped_backward(dy, q, k, v, y, norm, mask, self.scale or q.shape[-1] ** -0.5, self.cap)


def banded_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    window: WindowLimit,
    limit: Tensor | None,
    documents: Tensor | None,
    scale: float | None,
    cap: float | None,
) -> tuple[Tensor, Tensor]:
    """From q (N, T, G, E), k and v (N, S, E), sinks (N, G) to outputs (N, T, G, E) and log norms (N, T, G).

    `limit` is a window that is held in a tensor.
    """
    kind, kernel = wide(q.dtype), _Kernel(scale, cap)
    out, norms = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=kind)
    with torch.autocast(q.device.type, enabled=False):
        for tile, mask in _tiles(q, k, window if limit is None else int(limit), documents):
            keys, values = (_band_in(x, tile, kind) for x in (k, v))
            made, norm = kernel.forward(_rows(q, tile).to(kind), keys, values, mask)
            _rows(out, tile).copy_(made)
            _rows(norms[..., None], tile)[..., 0].copy_(norm)
    if sinks is not None:
        alone = norms.clone()
        torch.logaddexp(alone, sinks[:, None], out=norms)
        out.mul_(alone.sub_(norms).exp_()[..., None])
    return out, norms


def banded_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    norms: Tensor,
    window: WindowLimit,
    limit: Tensor | None,
    documents: Tensor | None,
    scale: float | None,
    cap: float | None,
    dout: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and sinks (empty without them) from that of the output."""
    dout, kernel = dout.contiguous(), _Kernel(scale, cap)
    kind = wide(q.dtype)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=kind), torch.zeros_like(v, dtype=kind)
    with torch.autocast(q.device.type, enabled=False):
        for tile, mask in _tiles(q, k, window if limit is None else int(limit), documents):
            norm = _rows(norms[..., None], tile)[..., 0]
            dy, queries, y = (_rows(x, tile).to(kind) for x in (dout, q, out))
            given = dy, queries, _band_in(k, tile, kind), _band_in(v, tile, kind), y, norm
            of_q, of_k, of_v = kernel.backward(*given, mask=mask)
            _rows(dq, tile).copy_(of_q)
            _add_bands_(dk, of_k, tile)
            _add_bands_(dv, of_v, tile)
    dsinks = norms.new_empty(0)
    if sinks is not None:
        dsinks = -((sinks[:, None] - norms).exp_() * (out.to(kind) * dout).sum(-1)).sum(1)
    return dq, dk.to(k.dtype), dv.to(v.dtype), dsinks


def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Store what the gradient needs."""
    q, k, v, sinks, ctx.window, limit, documents, *ctx.scores = inputs
    ctx.save_for_backward(q, k, v, sinks, *output, limit, documents)


def gradients(ctx: Any, dout: Tensor, run: Callable[..., Any]) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs of `forward`; `run` is `backward`, or the operator that wraps it."""
    *kept, limit, documents = ctx.saved_tensors
    dq, dk, dv, dsinks = run(*kept, ctx.window, limit, documents, *ctx.scores, dout)
    return dq, dk, dv, None if kept[3] is None else dsinks, None, None, None, None, None


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        found = banded_forward(*given)
        keep(ctx, given, found)
        ctx.mark_non_differentiable(found[1])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return gradients(ctx, grads[0], banded_backward)


def _rows(x: Tensor, tile: Bands) -> Tensor:
    """The queries (N, n, bG, E) of a tile, a view of x (N, T, G, E)."""
    return (
        x[:, tile.begin : tile.begin + tile.blocks * tile.block].unflatten(1, (tile.blocks, tile.block)).flatten(2, 3)
    )


def _band(x: Tensor, tile: Bands) -> Tensor:
    """The bands (N, n, L, E) of a tile, an overlapping view of x (N, S, E)."""
    shape = len(x), tile.blocks, tile.reach, x.shape[2]
    return x[:, tile.low :].as_strided(shape, (x.stride(0), tile.block * x.stride(1), x.stride(1), 1))


def _band_in(x: Tensor, tile: Bands, kind: torch.dtype) -> Tensor:
    """`_band` in a type: what the bands are views of is cast, not each band."""
    if x.dtype == kind:
        return _band(x, tile)
    end = tile.low + (tile.blocks - 1) * tile.block + tile.reach
    return _band(x[:, tile.low : end].to(kind, memory_format=torch.contiguous_format), tile._replace(low=0))


def _add_bands_(x: Tensor, bands: Tensor, tile: Bands) -> None:
    """Add bands (N, n, L, E) to where they come from in x (N, S, E): slices as long as a block do not overlap."""
    for begin in range(0, tile.reach, tile.block):
        part = bands[:, :, begin : begin + tile.block]
        at = tile._replace(low=tile.low + begin, reach=part.shape[2])
        _band(x, at).add_(part)


def _tiles(q: Tensor, k: Tensor, window: WindowLimit, documents: Tensor | None) -> Iterator[tuple[Bands, Tensor]]:
    """What one call takes, and what it adds to the scores: 0 or -inf, (bG, L) or (N, 1, bG, L)."""
    (n, tokens, groups, width), keys = q.shape, k.shape[1]
    found = list(bands(tokens, keys, window))
    mask = _mask(q, max(tile.block for tile in found), max(tile.reach for tile in found), window)
    mask = mask.repeat_interleave(groups, 0)
    if documents is None:
        for alike in found:
            for tile in _split(alike, max(1, GRADIENTS // (n * alike.reach * width))):
                yield tile, mask[-tile.block * groups :, -tile.reach :]
        return
    single = [tile for alike in found for tile in _split(alike, 1)]
    for tile, mixed in _within_documents(single, documents):
        corner = mask[-tile.block * groups :, -tile.reach :]
        if mixed:
            own = documents[:, tile.low : tile.low + tile.reach]
            hidden = own[:, -tile.block :, None] != own[:, None]
            corner = corner.masked_fill(hidden.repeat_interleave(groups, 1), -torch.inf)[:, None]
        yield tile, corner


def _mask(like: Tensor, block: int, reach: int, window: WindowLimit) -> Tensor:
    """What a block's queries add to the scores of its band (b, L); a smaller block or band uses the last corner."""
    age = torch.arange(block, device=like.device)[:, None] + reach - block - torch.arange(reach, device=like.device)
    hidden = age < 0 if window is None else (age < 0) | (age >= window)
    return like.new_zeros(block, reach, dtype=wide(like.dtype)).masked_fill_(hidden, -torch.inf)


def _split(alike: Bands, most: int) -> Iterator[Bands]:
    """The same blocks, at most so many together."""
    begin, blocks, block, low, reach = alike
    for first in range(0, blocks, most):
        yield Bands(begin + first * block, min(most, blocks - first), block, low + first * block, reach)


def _within_documents(single: list[Bands], documents: Tensor) -> Iterator[tuple[Bands, bool]]:
    """Single blocks, bands cut where the document of the first query begins; True where other documents are left."""
    _, _, block, low, reach = torch.tensor(single, device=documents.device).unbind(1)
    high = low + reach
    own = documents[:, high - block].contiguous()
    low = torch.maximum(low, torch.searchsorted(documents, own).amin(0))
    mixed = (documents[:, low] != documents[:, high - 1]).any(0)
    cut = [
        one._replace(low=at, reach=left)
        for one, at, left in zip(single, low.tolist(), (high - low).tolist(), strict=True)
    ]
    return zip(cut, mixed.tolist(), strict=True)
