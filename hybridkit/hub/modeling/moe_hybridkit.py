"""Mixture of experts (arXiv 1701.06538, 2401.06066): each token passes the few networks that a router chooses for it.

    y = factor sum over chosen e of w_e expert_e(x) + shared(x)

with s = softmax or sigmoid of the router's logits, the chosen ones those with the largest s_e + correction_e, and w =
s, or s over its sum over the chosen (`normalize`). With `groups`, only the groups whose two best sum highest take part.
N tokens, D width, E experts, A active ones, F their width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .ffn_hybridkit import FeedForward, hidden
from .shared_hybridkit import wide


class MixtureOfExperts(nn.Module):
    """The block `moe`."""

    mixes = False

    def __init__(self, config: Any, said: dict[str, Any], index: int) -> None:
        super().__init__()
        self.said, width = said, config.hidden_size
        experts, inner, bias = said["experts"], said["width"], said.get("bias", False)
        ups = inner * (1 + said.get("gated", True))
        self.router = nn.Linear(width, experts, bias=bias)
        self.up = nn.Parameter(torch.zeros(experts, ups, width))
        self.down = nn.Parameter(torch.zeros(experts, width, inner))
        if bias:
            self.up_bias, self.down_bias = (nn.Parameter(torch.zeros(experts * size)) for size in (ups, width))
        shared = said.get("shared", 0)
        self.shared = FeedForward(config, {**said, "width": shared * inner}, index) if shared else None
        self.shared_gate = nn.Linear(width, 1, bias=False) if said.get("shared_gate") else None
        self.register_buffer("correction", torch.zeros(experts) if said.get("correction") else None)

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None, **given: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, T, D) to the same, and an empty state."""
        y = self.routed(x.flatten(0, 1)).view_as(x)
        if self.shared is not None:
            also = self.shared(x, None)[0]
            y = y + (also if self.shared_gate is None else also * torch.sigmoid(self.shared_gate(x)))
        return y, ()

    def routed(self, x: Tensor) -> Tensor:
        """The chosen experts' sum for x (N, D)."""
        chosen, weights = self.choose(wide(self.router, x))
        y = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            token, place = (chosen == expert).nonzero(as_tuple=True)
            made = self.expert(x[token], expert) * weights[token, place, None].to(x.dtype)
            y = y.index_add(0, token, made)
        return y

    def expert(self, x: Tensor, index: int) -> Tensor:
        """One expert's outputs."""
        made = x @ self.up[index].mT
        if self.said.get("bias"):
            made = made + self.up_bias.unflatten(0, (len(self.up), -1))[index]
        y = hidden(made, self.said) @ self.down[index].mT
        return y + self.down_bias.unflatten(0, (len(self.down), -1))[index] if self.said.get("bias") else y

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The experts of every token (N, A), and their weights, from logits (N, E)."""
        said, groups = self.said, self.said.get("groups", 1)
        s = logits.sigmoid() if said.get("route") == "sigmoid" else logits.softmax(-1)
        scores = s if self.correction is None else s + self.correction
        if groups > 1:
            parts = scores.unflatten(1, (groups, -1))
            best = parts.topk(min(2, parts.shape[2]), -1).values.sum(-1)
            kept = torch.zeros_like(best).scatter(1, best.topk(said.get("active_groups", 1), -1).indices, 1)
            scores = parts.masked_fill(kept[..., None] == 0, -torch.inf).flatten(1)
        chosen = scores.topk(said["active"], -1).indices
        weights = s.gather(1, chosen)
        if said.get("normalize", True):
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * said.get("factor", 1.0)
