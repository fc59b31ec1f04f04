"""The state of attention: a ring of keys and values.

B batch, K key-value heads, E width of a head, S slots of the ring, n cached keys, T tokens of this call.

The token at position p sits in slot p % S, so that a step overwrites the oldest one in place. Heads come before slots,
because a step then reads each head's keys as one matrix, without a copy, whatever the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hybridkit.block import WindowLimit


class KV(NamedTuple):
    """Rotated keys and values of the last S tokens; every row of a batch has seen equally many."""

    k: Tensor  # (B, K, S, E)
    v: Tensor  # (B, K, S, E)
    position: Tensor  # (B,) int64: tokens seen so far
    since: Tensor  # (B,) int64: where the current document began; later tokens see nothing before it
    window: Tensor  # (B,) int64: the limit that the state was built with; 0: none


class Past(NamedTuple):
    """What a call reads from a state: the keys within its limit, oldest first."""

    position: int
    k: list[Tensor]  # pieces (B, n_i, K, E)
    v: list[Tensor]
    documents: Tensor | None  # (B, n) int64: 0 in the current document, -1 before; None where all are in it
    since: Tensor  # (B,)


def slots(tokens: int, limit: WindowLimit) -> int:
    """Slots of the ring after so many tokens: a query sees itself and limit - 1 earlier ones."""
    return tokens if limit is None else min(tokens, limit - 1)


def empty_cache(
    batch: int,
    heads: int,
    head: int | tuple[int, int],
    tokens: int,
    limit: WindowLimit,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> KV:
    """A state that has seen nothing, with room for `tokens`. `head`: the width of keys and values, or both."""
    widths = (head, head) if isinstance(head, int) else head
    shape = batch, heads, slots(tokens, limit)
    k, v = (torch.zeros(*shape, width, device=device, dtype=dtype) for width in widths)
    count = torch.zeros(3, batch, device=device, dtype=torch.int64)
    return KV(k, v, count[0], count[1], count[2].fill_(limit or 0))


def read_cache(state: KV | None, limit: WindowLimit) -> Past | None:
    """The part of a carried state within `limit`; None for a state that has seen nothing.

    Raises ValueError for a limit larger than the state's own.
    """
    if state is None:
        return None
    # One transfer from the device, for the four numbers that decide shapes.
    numbers = torch.stack([state.position.max(), state.since.max(), state.window.max(), state.window.min()])
    position, since, largest, own = numbers.tolist()
    if position == 0:
        return None
    if own != largest or (limit or 0) > own > 0:
        raise ValueError(
            f"window {limit} is larger than {own}, the window that the carried state was built with: "
            f"use at most {own}, or start from a fresh state"
        )
    n = min(position, slots(state.k.shape[2], limit))
    documents = None
    if since > position - n:
        held = torch.arange(position - n, position, device=state.k.device)
        documents = -(held < state.since[:, None]).long()
    return Past(position, _ordered(state.k, position, n), _ordered(state.v, position, n), documents, state.since)


def _ordered(ring: Tensor, position: int, n: int) -> list[Tensor]:
    """The last n entries of a ring, oldest first, as at most two views (B, n_i, K, E)."""
    size = ring.shape[2]
    begin = (position - n) % max(size, 1)
    first = min(n, size - begin)
    return [ring[:, :, begin : begin + first].transpose(1, 2), ring[:, :, : n - first].transpose(1, 2)]


def write_cache(
    past: Past | None,
    k: Tensor,
    v: Tensor,
    tokens: int,
    limit: WindowLimit | Tensor,
    largest: WindowLimit,
    document_starts: Tensor | None,
) -> KV:
    """The state after a call whose keys and values, cached ones included, are k and v (B, n + T, K, E)."""
    position = (past.position if past else 0) + tokens
    size = slots(position, limit if isinstance(limit, int) else largest)
    since = past.since if past else k.new_zeros(len(k), dtype=torch.int64)
    if document_starts is not None:
        begins = torch.arange(position - tokens, position, device=k.device).where(document_starts, -1).amax(1)
        since = begins.where(begins >= 0, since)
    count = torch.full_like(since, position)
    built = torch.zeros_like(since) + (0 if limit is None else limit)
    return KV(_ring(k, position, size), _ring(v, position, size), count, since, built)


def _ring(ordered: Tensor, position: int, size: int) -> Tensor:
    """The last `size` of (B, n + T, K, E), each in its slot: (B, K, size, E)."""
    if size == position:  # without gradients a copy where it is part of q, k and v together, which would be kept alive
        return (ordered if torch.is_grad_enabled() else ordered.contiguous()).transpose(1, 2)
    # roll copies, so that a short ring does not keep a long call's keys alive
    return ordered[:, ordered.shape[1] - size :].transpose(1, 2).roll(position % max(size, 1), 2)


def visible(state: KV) -> Tensor:
    """Which slots the next token sees: (B, S) bool."""
    held, window = _held(state.position, state.k.shape[2]), state.window[:, None]
    near = (state.position[:, None] - held < window) | (window == 0)
    return near & (held >= state.since[:, None])


def _held(position: Tensor, size: int) -> Tensor:
    """The position (B, S) that each slot of a ring holds after `position` (B,) tokens; negative where none."""
    last = position[:, None] - 1
    return last - (last - torch.arange(size, device=position.device)) % max(size, 1)


def enlarge(state: KV, tokens: int, limit: WindowLimit) -> KV:
    """The same state with a ring that has room for `tokens`; itself where it has that already."""
    size, old = slots(tokens, limit), state.k.shape[2]
    if size <= old:
        return state
    position = _held(state.position, size)
    source = (position % max(old, 1))[:, None, :, None]
    known = ((position >= 0) & (position >= state.position[:, None] - old))[:, None, :, None]

    def moved(ring: Tensor) -> Tensor:
        grown = ring.new_zeros(*ring.shape[:2], size, ring.shape[3])
        return grown if old == 0 else torch.where(known, ring.take_along_dim(source, 2), grown)

    return state._replace(k=moved(state.k), v=moved(state.v), position=state.position.clone())


def append_(state: KV, k: Tensor, v: Tensor, position: int | None = None) -> KV:
    """Put one more token's keys and values (B, K, 1, E) into the ring, in place and without asking the device.

    `position`, which all rows share: for a caller that knows it already.
    """
    size = state.k.shape[2]
    if size and position is not None:
        state.k[:, :, position % size] = k[:, :, 0]
        state.v[:, :, position % size] = v[:, :, 0]
    elif size:
        slot = (state.position % size)[:, None, None, None]
        state.k.scatter_(2, slot.expand_as(k), k.to(state.k.dtype))
        state.v.scatter_(2, slot.expand_as(v), v.to(state.v.dtype))
    state.position.add_(1)
    return state
