"""Losses of a head that look at the teacher's logits too, slice by slice: all logits of a batch never exist at once.

N tokens, D width, V vocabulary, k logits that are kept of each token. With student's log-probabilities log q, and the
teacher's p,

    ce = -log q[target]
    kl = sum over the vocabulary of p (log p - log q)

Of the teacher's k largest logits, kl is that of k + 1 classes: the k tokens, and all others as one. It is 0 where both
agree on them, and never larger than the whole (the log-sum inequality).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hybridkit.data.batches import IGNORED
from hybridkit.model.loss import cap_logits
from hybridkit.model.model import Head

SLICE = {"cpu": 2**23, "cuda": 2**27}  # logits held at a time, of the teacher and of the student each

SliceLoss = Callable[[Tensor, slice], Tensor]  # logits (n, V) of some tokens, and which: a sum over them
Add = Callable[[str, Tensor], None]  # notes a figure


class TopLogits(NamedTuple):
    """The teacher's k largest log-probabilities of each token, and their ids, (N, k)."""

    values: Tensor
    ids: Tensor

    def divergence(self, log_q: Tensor, span: slice) -> Tensor:
        """kl of k + 1 classes, summed over the tokens `span`; log q (n, V)."""
        values, ids = self.values[span].to(log_q.dtype), self.ids[span].long()
        p = values.exp()
        kept = (p * (values - log_q.gather(1, ids))).sum()
        if ids.shape[1] >= log_q.shape[1]:
            return kept
        rest = (1 - p.sum(1)).clamp(min=0)
        log_rest = log_q.scatter(1, ids, -torch.inf).logsumexp(1)
        return kept + (torch.xlogy(rest, rest) - rest * log_rest).sum()


class AllLogits(NamedTuple):
    """What the teacher's head reads, (N, D): its logits are made when they are needed."""

    head: Head
    x: Tensor

    def log_p(self, span: slice) -> Tensor:
        """The log-probabilities of the tokens `span`, (n, V)."""
        with torch.no_grad():
            logits: Tensor = self.head(self.x[span])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)

    def divergence(self, log_q: Tensor, span: slice) -> Tensor:
        """kl summed over the tokens `span`; log q (n, V)."""
        return F.kl_div(log_q, self.log_p(span).to(log_q.dtype), log_target=True, reduction="sum")

    def top(self, k: int) -> TopLogits:
        """The k largest of every token."""
        vocab, parts = len(self.head.weight), list[tuple[Tensor, Tensor]]()
        for span in _spans(self.x, vocab):
            values, ids = self.log_p(span).topk(min(k, vocab), dim=1)
            parts.append((values.float(), ids.int()))
        values, ids = (torch.cat(part) for part in zip(*parts, strict=True))
        return TopLogits(values, ids)


def distilled(
    factors: Mapping[str, float], teacher: TopLogits | AllLogits, add: Add
) -> Callable[[Tensor, Tensor, Tensor, float | None, float], Tensor]:
    """The sum of ce and kl with their factors, as a head computes it (`hybridkit.model.loss.HeadLoss`).

    `teacher` holds the tokens whose targets count, in their order. `add` is given each of the sums.
    """

    def loss(x: Tensor, weight: Tensor, targets: Tensor, cap: float | None, z_loss: float) -> Tensor:
        counted = (targets != IGNORED).nonzero().squeeze(1)
        wanted = targets[counted]

        def of_slice(logits: Tensor, span: slice) -> Tensor:
            logits = cap_logits(logits, cap)
            log_q = logits.log_softmax(1)
            sums = {"kl": teacher.divergence(log_q, span)} if "kl" in factors else {}
            if "ce" in factors:
                sums["ce"] = F.nll_loss(log_q, wanted[span], reduction="sum")
            for name, value in sums.items():
                add(name, value)
            found = torch.stack([factors[name] * value for name, value in sums.items()]).sum()
            own = z_loss * logits.logsumexp(1).square().sum()  # minimized, and not told
            return found + (own - own.detach())

        return _SlicedLoss.apply(x.index_select(0, counted), weight, of_slice)

    return loss


def _spans(x: Tensor, vocab: int) -> list[slice]:
    """Cuts of the tokens of x (N, D)."""
    rows = max(1, SLICE[x.device.type] // vocab)
    return [slice(begin, begin + rows) for begin in range(0, max(1, len(x)), rows)]


class _SlicedLoss(torch.autograd.Function):
    """Forward also computes the gradients, while it has a slice's logits; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, of_slice: SliceLoss) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        narrow = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        inner, outer, total = x.to(narrow), weight.to(narrow), x.new_zeros((), dtype=wide)
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for span in _spans(x, len(weight)):
            logits = F.linear(inner[span], outer).to(wide).requires_grad_()
            with torch.enable_grad():
                loss = of_slice(logits, span)
            total += loss.detach()
            (grad,) = torch.autograd.grad(loss, logits)
            if grad_x is not None:
                grad_x[span] = grad.to(narrow) @ outer
            if grad_weight is not None:
                grad_weight += grad.to(narrow).T @ inner[span]
        ctx.save_for_backward(grad_x, grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_x, grad_weight = (None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors)
        return grad_x, grad_weight, None
