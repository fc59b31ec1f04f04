"""One token of latent attention (blocks/mla.py) on a CPU, for decoding many: projections joined, checks done once.

B batch, H heads, E width of a head's unrotated part, R of the rotated one, V of a value, C the latent's rank, n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridkit.block import State, StepFunction
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.cpu.attention_step import rotary
from hybridkit_blocks.ops.cpu.packed import Product, Unit, product, residual, side_by_side
from hybridkit_blocks.ops.rope import Rope
from hybridkit_blocks.ops.scores import probabilities


class LatentParts(NamedTuple):
    """What a layer of latent attention is made of."""

    norm: nn.RMSNorm  # before it
    q_down: nn.Linear | None
    q_norm: nn.RMSNorm | None
    q: nn.Linear
    down: nn.Linear
    latent_norm: nn.RMSNorm
    rope: nn.Linear | None
    rotary: Rope | None
    expand: nn.Linear
    out: nn.Linear
    sizes: tuple[int, int, int]  # H, E, R
    scale: float


def latent_decoder(parts: LatentParts, rows: int) -> StepFunction:
    """`x + step(norm(x))` of the latent attention with these parts."""
    heads, head, turning = parts.sizes
    first, second = _queries(parts, rows)
    into = [first, parts.down.weight, *([] if parts.rope is None else [parts.rope.weight])]
    project, unit, cuts = product(side_by_side(parts.norm, into), rows), Unit(parts.norm), [len(w) for w in into]
    latent_unit, wide = Unit(parts.latent_norm), torch.promote_types(parts.q.weight.dtype, torch.float32)
    factors = parts.latent_norm.weight.to(wide) * parts.latent_norm.weight.numel() ** 0.5
    turned, attend = rotary(turning, parts.rotary, parts.q.weight), _attention(parts)
    out = residual(parts.out.weight, rows)

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x, position, kind = x[:, 0], int(state.position[0]), state.k.dtype  # every row has seen equally many
        given, latent, *shared = project(unit(x)).split_with_sizes(cuts, -1)
        latent = (latent_unit(latent.to(wide)) * factors).to(kind)
        fixed, rotated = second(given).view(len(x), heads, -1).split_with_sizes((head, turning), -1)
        if shared:
            both = torch.cat([rotated, shared[0].unsqueeze(1)], 1).to(wide)
            rotated, own = turned(both, position).to(kind).split_with_sizes((heads, 1), 1)
            state.v[:, 0, position] = own[:, 0]
        state.k[:, 0, position] = latent
        y = attend(fixed.to(kind), rotated, state, position)
        state.position.add_(1)
        return out(x, y.to(x.dtype))[:, None], state

    return run


def _queries(parts: LatentParts, rows: int) -> tuple[Tensor, Product]:
    """The weight that reads x, and what follows it, to scaled queries (B, H (E + R))."""
    weight = parts.q.weight * parts.scale
    if parts.q_down is None or parts.q_norm is None:
        return weight, lambda q: q
    unit, up = Unit(parts.q_norm), product(side_by_side(parts.q_norm, [weight]), rows)
    return parts.q_down.weight, lambda low: up(unit(low))


def _attention(parts: LatentParts) -> Callable[[Tensor, Tensor, kv_cache.KV, int], Tensor]:
    """A function from queries (B, H, E), (B, H, R) to outputs (B, H V) over the cache up to a position, included."""
    heads, head, turning = parts.sizes
    weight = parts.expand.weight.unflatten(0, (heads, -1))
    keys, values = weight.split((head, weight.shape[1] - head), 1)  # (H, E, C), (H, V, C)

    def attend(fixed: Tensor, rotated: Tensor, state: kv_cache.KV, position: int) -> Tensor:
        latents, kind = state.k[:, 0, : position + 1], state.k.dtype
        query = torch.bmm(fixed.transpose(0, 1), keys.to(kind)).transpose(0, 1)  # (B, H, C)
        s = torch.bmm(query, latents.mT)
        if turning:
            s = torch.baddbmm(s, rotated, state.v[:, 0, : position + 1].mT)
        hidden = None
        if int(state.since.max()) > 0:
            hidden = (torch.arange(position + 1) < state.since[:, None])[:, None]
        p = probabilities(s.to(torch.promote_types(kind, torch.float32)), hidden, None, None).to(kind)
        read = torch.bmm(p, latents).transpose(0, 1)  # (H, B, C)
        return torch.bmm(read, values.to(kind).mT).transpose(0, 1).flatten(1)

    return attend
