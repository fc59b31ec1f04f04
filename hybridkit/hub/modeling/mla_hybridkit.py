"""Multi-head latent attention (arXiv 2405.04434, section 2.1): keys and values of all heads from one latent a token.

    l = norm(down x)        r = rotated(rope x)         both are kept, and nothing else
    k^h = [K^h l, r]        v^h = V^h l                 `expand` holds K^h and V^h of every head
    q^h = [q'^h, rotated(q''^h)] of q x, or with a rank of queries of q norm(q_down x)

A text is read with keys and values written out. One token reads the latents as they are: q'^h K^h is a query of them,
and V^h acts on their weighted sum. B batch, T tokens, S keys, H heads, E width of q', R of r, V of a value, C of l.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention_hybridkit import Attention, rotate

EPS = 1e-6


class LatentAttention(Attention):
    """The block `mla`. Its state is (l, r): (B, S, C) and (B, S, R)."""

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        nn.Module.__init__(self)
        self.config, self.said, self.layer_idx, width = config, said, index, config.hidden_size
        self.heads, self.head, self.value = said["heads"], said["head"], said["value_head"]
        self.head_dim = said["rope_head"]  # the part that turns
        self.window = self.sliding_window = self.softcap = self.sinks = None
        self.num_key_value_groups, rank, q_rank = 1, said["rank"], said.get("q_rank")
        self.scaling = said.get("scale") or (self.head + self.head_dim) ** -0.5
        self.q_down = nn.Linear(width, q_rank, bias=False) if q_rank else None
        self.q_norm = nn.RMSNorm(q_rank, eps=EPS) if q_rank else None
        self.q = nn.Linear(q_rank or width, self.heads * (self.head + self.head_dim), bias=False)
        self.down = nn.Linear(width, rank, bias=False)
        self.norm = nn.RMSNorm(rank, eps=EPS)
        self.rope = nn.Linear(width, self.head_dim, bias=False) if self.head_dim else None
        self.expand = nn.Linear(rank, self.heads * (self.head + self.value), bias=False)
        self.out = nn.Linear(self.heads * self.value, width, bias=False)

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None, seen: Tensor | None, positions: Tensor, **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        q = self.q(x if self.q_down is None else self.q_norm(self.q_down(x)))
        q = q.unflatten(2, (self.heads, -1)).transpose(1, 2)
        latent = self.norm(self.down(x))
        turned = latent[..., :0] if self.rope is None else self.rope(x)
        if self.said.get("theta") and self.rope is not None:
            cos, sin = self.angles(positions)
            fixed, turning = q.split((self.head, self.head_dim), -1)
            q, turned = torch.cat([fixed, rotate(turning, cos, sin)], -1), rotate(turned[:, None], cos, sin)[:, 0]
        if state is not None:
            latent, turned = torch.cat([state[0], latent], 1), torch.cat([state[1], turned], 1)
        seen = None if seen is None else seen[:, -latent.shape[1] :].bool()
        if x.shape[1] == 1:
            y = self.read_latents(q, latent, turned, seen)
        else:
            k, v = self.expanded(latent, turned)
            y = self.attend_block(q, k, v, seen, **options)
        return self.out(y.flatten(2)), (latent, turned)

    def expanded(self, latent: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, S, E + R) and values (B, H, S, V)."""
        both = self.expand(latent).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = both.split((self.head, self.value), -1)
        return torch.cat([k, turned[:, None].expand(-1, self.heads, -1, -1)], -1), v

    def read_latents(self, q: Tensor, latent: Tensor, turned: Tensor, seen: Tensor | None) -> Tensor:
        """The same for one token: (B, 1, H, V) of q (B, H, 1, E + R)."""
        into, out = self.expand.weight.unflatten(0, (self.heads, -1)).split((self.head, self.value), 1)
        fixed, turning = q.split((self.head, self.head_dim), -1)
        query = torch.einsum("bhte,hec->bhtc", fixed, into)
        scores = (query @ latent[:, None].mT + turning @ turned[:, None].mT).float() * self.scaling
        mask = self.mask(q, latent[:, None], seen)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        read = scores.softmax(-1).to(q.dtype) @ latent[:, None]
        return torch.einsum("bhtc,hvc->bthv", read, out)
