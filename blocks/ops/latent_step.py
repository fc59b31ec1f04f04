"""One token of latent attention (blocks/mla.py), for decoding many: projections joined, checks done once.

On a CPU the position is a number, and only what was read is looked at; on a GPU nothing asks the device for it.

B batch, H heads, E width of a head's unrotated part, R of the rotated one, V of a value, C the latent's rank, n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridkit.block import State, StepFunction, packed
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.cpu.attention_step import rotary
from hybridkit_blocks.ops.rope import Rope, rotary_at
from hybridkit_blocks.ops.scores import probabilities


class LatentParts(NamedTuple):
    """What a layer of latent attention is made of."""

    norm: nn.RMSNorm | None  # before it
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
    """`x + step(norm(x))` of the latent attention with these parts, for the device that holds them."""
    build = _gpu_decoder if packed.on_gpu(parts.out.weight) else _cpu_decoder
    return build(parts, rows)


def _cpu_decoder(parts: LatentParts, rows: int) -> StepFunction:
    heads, _, turning = parts.sizes
    project, cuts = _queries(parts, rows)
    unit, latent_unit = packed.Unit(parts.norm), packed.Unit(parts.latent_norm)
    wide = torch.promote_types(parts.q.weight.dtype, torch.float32)
    factors = parts.latent_norm.weight.to(wide) * parts.latent_norm.weight.numel() ** 0.5
    turned, attend = rotary(turning, parts.rotary, parts.q.weight), _attention(parts)
    out = packed.output(parts.norm, parts.out.weight, rows)

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x, position, kind = x[:, 0], state.position.tolist()[0], state.k.dtype  # every row has seen equally many
        fixed, both, latent = project(unit(x)).split_with_sizes(cuts, -1)
        state.k[:, 0, position] = (latent_unit(latent.to(wide)) * factors).to(kind)
        if turning:
            both = both.view(len(x), heads + 1, turning).to(wide)
            both, own = turned(both, position).to(kind).split_with_sizes((heads, 1), 1)
            state.v[:, 0, position] = own[:, 0]
        hidden, seen = None, position + 1
        if any(state.since.tolist()):
            hidden = (torch.arange(seen) < state.since[:, None])[:, None]
        y = attend(fixed.view(len(x), heads, -1).to(kind), both, state.k[:, 0, :seen], state.v[:, 0, :seen], hidden)
        state.position.add_(1)
        return out(x, y.to(x.dtype))[:, None], state

    return run


def _gpu_decoder(parts: LatentParts, rows: int) -> StepFunction:
    heads, _, turning = parts.sizes
    (project, cuts), attend = _queries(parts, rows), _attention(parts)
    unit, latent_unit = packed.Unit(parts.norm), packed.Unit(parts.latent_norm)
    wide = torch.promote_types(parts.q.weight.dtype, torch.float32)
    out = packed.output(parts.norm, parts.out.weight, rows)
    turned = None if parts.rotary is None else rotary_at(parts.rotary, parts.out.weight)

    def run(x: Tensor, state: State) -> tuple[Tensor, kv_cache.KV]:
        assert isinstance(state, kv_cache.KV)
        x, kind = x[:, 0], state.k.dtype
        fixed, both, latent = project(unit(x)).split_with_sizes(cuts, -1)
        both = both.view(len(x), heads + 1, turning).to(kind if turned is None else wide)
        both = (both if turned is None else turned(both, state.position)).to(kind)
        slots = torch.arange(state.k.shape[2], device=x.device)  # which hold all positions, in order
        hidden = ((slots > state.position[:, None]) | (slots < state.since[:, None]))[:, None]
        kv_cache.append_(state, latent_unit(latent.to(wide))[:, None, None].to(kind), both[:, None, heads:])
        query = fixed.view(len(x), heads, -1).to(kind)
        y = attend(query, both[:, :heads], state.k[:, 0], state.v[:, 0], hidden)
        return out(x, y.to(x.dtype))[:, None], state

    return run


def _queries(parts: LatentParts, rows: int) -> tuple[packed.Product, list[int]]:
    """From x / |x| to scaled queries (B, H E), what turns, queries and the shared part, (B, (H + 1) R), and the latent
    (B, C); and these sizes."""
    heads, head, turning = parts.sizes
    by_head = (parts.q.weight * parts.scale).unflatten(0, (heads, -1))
    fixed, turns = (part.flatten(0, 1) for part in by_head.split((head, turning), 1))
    shared = [] if parts.rope is None else [parts.rope.weight]
    cuts = [len(fixed), len(turns) + turning, len(parts.down.weight)]
    if parts.q_down is None or parts.q_norm is None:
        return packed.product(packed.side_by_side(parts.norm, [fixed, turns, *shared, parts.down.weight]), rows), cuts
    into = packed.product(packed.side_by_side(parts.norm, [parts.q_down.weight, *shared, parts.down.weight]), rows)
    unit, up = packed.Unit(parts.q_norm), packed.product(packed.side_by_side(parts.q_norm, [fixed, turns]), rows)
    sizes = [len(parts.q_down.weight), cuts[1] - len(turns) + cuts[2]]

    def project(x: Tensor) -> Tensor:
        low, rest = into(x).split_with_sizes(sizes, -1)
        return torch.cat([up(unit(low)), rest], -1)

    return project, cuts


def _attention(parts: LatentParts) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """A function from queries (B, H, E), (B, H, R), latents (B, n, C), what turns of keys (B, n, R), and which of them
    are hidden (B, 1, n) to outputs (B, H V)."""
    heads, head, turning = parts.sizes
    weight = parts.expand.weight.unflatten(0, (heads, -1))
    keys, values = weight[:, :head], weight[:, head:].mT  # (H, E, C), (H, C, V)

    def attend(fixed: Tensor, rotated: Tensor, latents: Tensor, turned: Tensor, hidden: Tensor | None) -> Tensor:
        kind = latents.dtype
        query = torch.bmm(fixed.transpose(0, 1), keys.to(kind)).transpose(0, 1)  # (B, H, C)
        s = torch.bmm(query, latents.mT)
        if turning:
            s = torch.baddbmm(s, rotated, turned.mT)
        p = probabilities(s.to(torch.promote_types(kind, torch.float32)), hidden, None, None).to(kind)
        read = torch.bmm(p, latents).transpose(0, 1)  # (H, B, C)
        return torch.bmm(read, values.to(kind)).transpose(0, 1).flatten(1)

    return attend
