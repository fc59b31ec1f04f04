"""Attention in blocks of queries against their band of keys: time and memory grow with T, not with T^2.

N batch times key-value heads, G queries of a group that share a key, T queries, S = past + T keys, E width of a head,
b queries of a block, L keys of its band.

A block of queries begin <= t < end sees no key outside of (begin - window, end): each block is one matrix product with
that slice, and only the slice's two corners need the mask. The backward pass computes the probabilities anew, which
costs one product of seven and saves a tensor of all bands. Everything inside is at least fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES = 1 << 18  # scores of a tile: they stay in a core's cache


class Band(NamedTuple):
    """A block of queries and the keys that they may see."""

    begin: int
    end: int
    low: int
    high: int


def bands(tokens: int, keys: int, window: int | None) -> list[Band]:
    """The bands of all blocks of queries; the last query sits at the last key."""
    past, block = keys - tokens, block_size(min(window or keys, keys))
    return [
        Band(begin, end := min(begin + block, tokens), max(0, past + begin + 1 - (window or keys)), past + end)
        for begin in range(0, tokens, block)
    ]


def block_size(window: int) -> int:
    """Queries of a block: fewer multiply fewer keys only to hide them, more make thicker products (measured)."""
    return 32 if window <= 64 else 64 if window <= 512 else 128


def banded(q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Tensor | None) -> Tensor:
    """`attend` of _core.py: q (B, T, H, E), k and v (B, S, K, E) to (B, T, H, E)."""
    batch, kv_heads, wide = len(q), k.shape[2], torch.promote_types(q.dtype, torch.float32)
    grouped = q.unflatten(2, (kv_heads, -1)).transpose(1, 2)  # (B, K, T, G, E)
    out = _Banded.apply(
        grouped.to(wide).flatten(0, 1).contiguous(),
        *(x.to(wide).transpose(1, 2).flatten(0, 1).contiguous() for x in (k, v)),
        window,
        None if documents is None else documents.repeat_interleave(kv_heads, 0),
    )
    return out.unflatten(0, (batch, kv_heads)).transpose(1, 2).flatten(2, 3).to(q.dtype)


class _Banded(torch.autograd.Function):
    """q (N, T, G, E), k and v (N, S, E) to (N, T, G, E)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None, documents: Tensor | None) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        out = torch.empty_like(q)
        with torch.autocast(q.device.type, enabled=False):
            for tile in _tiles(q, k, window, documents):
                block = out[tile.rows, tile.queries]
                block.copy_(torch.bmm(_probabilities(q, k, tile), v[tile.rows, tile.keys]).view_as(block))
        ctx.save_for_backward(q, k, v, documents)
        ctx.window = window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, documents = ctx.saved_tensors
        dout = grads[0].contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        with torch.autocast(q.device.type, enabled=False):
            for tile in _tiles(q, k, ctx.window, documents):
                rows, queries, keys = tile[:3]
                p = _probabilities(q, k, tile)  # (N', bG, L)
                do = dout[rows, queries].flatten(1, 2)  # (N', bG, E)
                dv[rows, keys] += torch.bmm(p.mT, do)
                ds = torch._softmax_backward_data(torch.bmm(do, v[rows, keys].mT), p, -1, p.dtype)
                dq[rows, queries] = torch.bmm(ds, k[rows, keys]).view_as(q[rows, queries])
                dk[rows, keys] += torch.bmm(ds.mT, q[rows, queries].flatten(1, 2))
        return dq.mul_(q.shape[-1] ** -0.5), dk, dv, None, None


class _Tile(NamedTuple):
    """One matrix product's worth of work: rows of the batch, a block of queries, its band of keys."""

    rows: slice
    queries: slice
    keys: slice
    newest: Tensor  # (b, 1, b): what to add to the band's last columns, 0 or -inf
    oldest: Tensor  # (b, 1, 0 to b): and to its first
    hidden: Tensor | None  # (N', b, 1, L) bool: other documents' keys


def _probabilities(q: Tensor, k: Tensor, tile: _Tile) -> Tensor:
    """softmax(q k^T) of a tile: (N', bG, L)."""
    block = q[tile.rows, tile.queries]  # (N', b, G, E)
    flat = torch.bmm(block.flatten(1, 2), k[tile.rows, tile.keys].mT)
    scores = flat.view(*block.shape[:3], -1)  # (N', b, G, L)
    scores[..., scores.shape[-1] - tile.newest.shape[-1] :] += tile.newest
    scores[..., : tile.oldest.shape[-1]] += tile.oldest
    if tile.hidden is not None:
        scores.masked_fill_(tile.hidden, -torch.inf)
    return flat.softmax(-1)


def _tiles(q: Tensor, k: Tensor, window: int | None, documents: Tensor | None) -> Iterator[_Tile]:
    """All tiles: blocks of queries, in groups of rows whose scores fit in cache."""
    (n, tokens, groups, _), keys = q.shape, k.shape[1]
    blocks = bands(tokens, keys, window)
    corner = q.new_full((blocks[0].end, blocks[0].end), -torch.inf)  # [query, key]
    future, gone = corner.triu(1)[:, None], corner.tril(-1)[:, None]
    for (begin, end, low, high), mixed in _within_documents(blocks, documents):
        b, reach = end - begin, high - low
        unreached = b + window - 1 - reach if window else b
        newest, oldest = future[:b, :, :b], gone[:b, :, unreached:b]
        rows = max(1, SCORES // (b * groups * reach))
        for row in range(0, n, rows):
            part = slice(row, row + rows)
            hidden = _hidden(documents[part, low:high], b) if mixed and documents is not None else None
            yield _Tile(part, slice(begin, end), slice(low, high), newest, oldest, hidden)


def _within_documents(blocks: list[Band], documents: Tensor | None) -> Iterator[tuple[Band, bool]]:
    """The bands, cut where the document of their first query begins; True where more than one document is left."""
    if documents is None:
        return zip(blocks, [False] * len(blocks), strict=True)
    begin, end, low, high = torch.tensor(blocks, device=documents.device).unbind(1)
    own = documents[:, high - (end - begin)].contiguous()
    low = torch.maximum(low, torch.searchsorted(documents, own).amin(0))
    mixed = (documents[:, low] != documents[:, high - 1]).any(0)
    cut = [block._replace(low=first) for block, first in zip(blocks, low.tolist(), strict=True)]
    return zip(cut, mixed.tolist(), strict=True)


def _hidden(documents: Tensor, queries: int) -> Tensor:
    """Which of a band's keys (N', L) belong to another document than its last `queries` do: (N', b, 1, L)."""
    own = documents[:, documents.shape[1] - queries :]
    return (own[:, :, None] != documents[:, None])[:, :, None]
