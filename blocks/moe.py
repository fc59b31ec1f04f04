"""Mixture of experts: every token passes the few feed-forward networks that a router chooses for it.

`moe(32,4,2880)`: 4 of 32 experts of width 2880 a token. `shared=1` adds experts that every token passes, together one
network of so many times the width. With s = softmax or sigmoid of the router's logits W x, and the A chosen ones those
with the largest s_e + c_e:

    y = factor sum over chosen e of w_e expert_e(x) + shared(x),   w = s, or s over its sum of the chosen (normalize)

(arXiv 1701.06538, 2401.06066.) No expert has a limit, so no token is left out, and no token depends on others. c is 0,
or a buffer that moves by `correction` after every update, against what each expert got (2408.15664, DeepSeek-V3).
`groups=8,active_groups=4` chooses among the experts of the groups whose two best s + c have the largest sums. With f_e
the share of tokens that choose e and p_e its mean probability, the auxiliary loss is aux E sum_e f_e p_e (2101.03961).

N tokens, D width, E experts, A active ones, F their width, P = N A pairs of token and expert.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hybridkit.block import (
    Block,
    Count,
    Dims,
    GivenWindow,
    Layer,
    State,
    product_flops,
    record,
    small_init_,
    wang_init_,
)
from hybridkit_blocks.ops.activation import ActivationOptions
from hybridkit_blocks.ops.feed_forward import network
from hybridkit_blocks.ops.grouped import grouped_product, permute_rows, unpermute_rows


class _Sizes(Block):
    """The first arguments, in the order in which a pattern gives them without a key."""

    experts: int = Field(ge=1)
    active: int = Field(ge=1)
    width: int = Field(ge=1)
    shared: int = Field(0, ge=0)
    route: Literal["softmax", "sigmoid"] = "softmax"


class MixtureOfExperts(ActivationOptions, _Sizes):
    """Some of many feed-forward networks for each token."""

    is_mixer: ClassVar[bool] = False
    normalize: bool = True
    factor: float = Field(1.0, gt=0)
    shared_gate: bool = False  # shared(x) times sigmoid(g . x), as Qwen3-Next has it
    groups: int = Field(1, ge=1)
    active_groups: int = Field(1, ge=1)
    correction: float = Field(0.0, ge=0)
    aux: float = Field(0.001, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.experts % self.groups or self.active_groups > self.groups:
            said = f"{self.groups} groups, {self.active_groups} of them active, do not fit {self.experts} experts"
            raise ValueError(f"{said}: groups should divide them, and at most all be active")
        candidates = self.experts // self.groups * self.active_groups
        if self.active > candidates:
            raise ValueError(f"{self.active} active experts are more than the {candidates} that may be chosen")
        if self.shared_gate and not self.shared:
            raise ValueError("shared_gate needs a shared expert: shared=1")
        return self

    def build(self, dims: Dims) -> Layer:
        return Experts(dims, self)

    def flops(self, dims: Dims, tokens: int, window: GivenWindow = None, count: Count = "exact") -> int:
        chosen = self.active * self.projections * self.width
        shared = self.projections * product_flops(count)(tokens, dims.width, self.shared * self.width)
        return 2 * tokens * dims.width * (self.experts + chosen + self.shared_gate) + shared

    def idle_parameters(self, dims: Dims, rows: int = 1) -> int:
        each = self.projections * self.width * dims.width + self.bias * (
            dims.width + (self.projections - 1) * self.width
        )
        return round(self.experts * each * (1 - self.active / self.experts) ** rows)


class Experts(Layer):
    """Router, experts as stacked weights, and the shared network where there is one."""

    correction: Tensor | None

    def __init__(self, dims: Dims, block: MixtureOfExperts) -> None:
        super().__init__()
        self._block, ups = block, (block.projections - 1) * block.width
        self.router = nn.Linear(dims.width, block.experts, bias=block.bias)
        self.up = nn.Parameter(torch.empty(block.experts, ups, dims.width))
        self.down = nn.Parameter(torch.empty(block.experts, dims.width, block.width))
        # Biases lie flat, as vectors that no weight decay touches: expert after expert.
        self.up_bias, self.down_bias = (
            nn.Parameter(torch.zeros(block.experts * size)) if block.bias else None for size in (ups, dims.width)
        )
        self.shared = network(dims, block.shared * block.width, block) if block.shared else None
        self.shared_gate = nn.Linear(dims.width, 1, bias=False) if block.shared_gate else None
        self.register_buffer("correction", torch.zeros(block.experts) if block.correction else None)
        for weight in (self.router.weight, self.up, *([self.shared_gate.weight] if self.shared_gate else [])):
            small_init_(weight)
        wang_init_(self.down, dims)
        if self.router.bias is not None:
            nn.init.zeros_(self.router.bias)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: GivenWindow | Tensor = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        # The number of tokens of an expert changes from call to call, and compiled graphs are made for constant shapes.
        run = torch.compiler.disable(self._routed) if torch.compiler.is_compiling() else self._routed
        y = run(x.flatten(0, 1)).view_as(x)
        if self.shared is not None:
            also, _ = self.shared(x)
            y = y + (also if self.shared_gate is None else also * torch.sigmoid(self.shared_gate(x)))
        return y.to(x.dtype), ()

    def balance(self, load: Tensor) -> None:
        if self.correction is not None:
            self.correction += self._block.correction * torch.sign(load.mean() - load).to(self.correction)

    def _routed(self, x: Tensor) -> Tensor:
        """The chosen experts' sum for x (N, D)."""
        active = self._block.active
        scores = self._scores(x)
        chosen = self._chosen(scores)
        order = chosen.flatten().argsort(stable=True)  # pairs by expert: (P,)
        expert = chosen.flatten()[order]
        experts = torch.arange(self._block.experts, device=x.device)
        counts = torch.searchsorted(expert, experts, right=True).diff(prepend=expert.new_zeros(1))
        self._record(scores, counts, len(x))
        made = _biased(grouped_product(permute_rows(x, order, active), self.up, counts), self.up_bias, expert)
        y = _biased(grouped_product(self._block.hidden(made), self.down, counts), self.down_bias, expert)
        weights = self._weights(scores, chosen)
        return (unpermute_rows(y, order).unflatten(0, (-1, active)) * weights[..., None].to(y.dtype)).sum(1)

    def _scores(self, x: Tensor) -> Tensor:
        """Logits (N, E), at least fp32 whatever the type: a rounded one would choose other experts."""
        wide = torch.promote_types(x.dtype, torch.float32)
        bias = None if self.router.bias is None else self.router.bias.to(wide)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(wide), self.router.weight.to(wide), bias)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1) if self._block.route == "softmax" else logits.sigmoid()

    @torch.no_grad()
    def _chosen(self, logits: Tensor) -> Tensor:
        """The experts of every token: (N, A)."""
        block, scores = self._block, logits
        if self.correction is not None or block.groups > 1:
            scores = self._probabilities(logits) + (0 if self.correction is None else self.correction)
        if block.groups > 1:
            grouped_scores = scores.unflatten(1, (block.groups, -1))
            best = grouped_scores.topk(min(2, grouped_scores.shape[2]), -1).values.sum(-1)
            kept = torch.zeros_like(best).scatter(1, best.topk(block.active_groups, -1).indices, 1.0)
            scores = grouped_scores.masked_fill(kept[..., None] == 0, -torch.inf).flatten(1)
        return scores.topk(block.active, -1).indices

    def _weights(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """Of the chosen experts: (N, A)."""
        block = self._block
        if block.normalize and block.route == "softmax":  # equal to dividing by the sum, and cannot underflow
            return logits.gather(1, chosen).softmax(-1) * block.factor
        weights = self._probabilities(logits).gather(1, chosen)
        if block.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * block.factor

    def _record(self, logits: Tensor, counts: Tensor, tokens: int) -> None:
        """Tell the auxiliary loss and the experts' loads, in calls that train."""
        if not torch.is_grad_enabled():
            return
        loss = None
        if self._block.aux:
            p = self._probabilities(logits)
            p = p / p.sum(-1, keepdim=True)
            loss = self._block.aux * self._block.experts * (counts.to(p.dtype) / tokens * p.mean(0)).sum()
        record(self, loss, counts)


def _biased(x: Tensor, bias: Tensor | None, expert: Tensor) -> Tensor:
    """x (P, M) plus the bias (E M,) of every row's expert (P,)."""
    return x if bias is None else x + bias.view(-1, x.shape[1])[expert].to(x.dtype)
