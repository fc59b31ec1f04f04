"""Cross-entropy of a linear head, slice by slice, so that a long sequence's logits never exist all at once.

N tokens, D width, V vocabulary. With z = x W^T, softly capped as c tanh(z / c) where a cap c is given,
loss = sum over counted tokens of logsumexp(z) - z[target].
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hybridkit.block import Auxiliary, pad_weight, spare
from hybridkit.data.feed import IGNORED

# What a head makes of (N, D) inputs, its weight (V, D), targets (N,), the soft cap and the factor of the z-loss.
HeadLoss = Callable[[Tensor, Tensor, Tensor, float | None, float], Tensor]

_SLICE = {"cpu": 2**25, "cuda": 2**29}  # logits held at a time: 128 MiB of fp32, 1 GiB of bf16


# Of logits (n, V, and perhaps further columns, which are 0), targets (n,), V, the cap and the factor of the z-loss: the
# summed loss and its gradient by the logits, 0 in the further columns. The logits may be written over.
LogitLoss = Callable[[Tensor, Tensor, int, float | None, float], tuple[Tensor, Tensor]]


def loss_in_place(
    logits: Tensor, targets: Tensor, vocab: int, cap: float | None, z_loss: float
) -> tuple[Tensor, Tensor]:
    """A `LogitLoss` that holds one copy of the logits in fp32."""
    narrow = logits.dtype
    logits = logits.to(torch.promote_types(narrow, torch.float32))
    return _softmax_loss(logits[:, :vocab], targets, cap, z_loss), logits.to(narrow)


def loss_for_compiler(
    logits: Tensor, targets: Tensor, vocab: int, cap: float | None, z_loss: float
) -> tuple[Tensor, Tensor]:
    """The same as a formula, of which a compiler makes two passes over the logits."""
    z = cap_logits(logits[:, :vocab].to(torch.promote_types(logits.dtype, torch.float32)), cap)
    counted = (targets != IGNORED)[:, None]
    picked = torch.where(counted, targets[:, None], 0)
    norm = torch.logsumexp(z, dim=1, keepdim=True)
    loss = torch.where(counted, norm - z.gather(1, picked), 0).sum()
    grad = (z - norm).exp() * (1 + 2 * z_loss * norm) - (torch.arange(vocab, device=z.device) == picked).to(z.dtype)
    grad = torch.where(counted, grad, 0) * (1 if cap is None else 1 - (z / cap) ** 2)
    return loss, F.pad(grad, (0, logits.shape[1] - vocab)).to(logits.dtype)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float | None = None,
    z_loss: float = 0.0,
    of_slice: LogitLoss = loss_in_place,
) -> Tensor:
    """The summed loss in nats, a scalar in at least fp32.

    x (N, D), weight (V, D), targets (N,) of which `IGNORED` ones add nothing. The gradient is that of the loss plus
    `z_loss` times the sum of logsumexp(z)^2 (arXiv 2204.02311, section 5), which the returned loss leaves out.
    """
    if x.device.type == "cpu":  # leave out ignored targets; on a GPU, counting them would make the CPU wait
        counted = (targets != IGNORED).nonzero().squeeze(1)
        if len(counted) < len(targets):
            x, targets = x.index_select(0, counted), targets[counted]
    return _LinearCrossEntropy.apply(x, weight, targets, cap, z_loss, of_slice)


def loss_bytes(tokens: int, vocab: int, width: int, device: str, narrow: bool) -> int:
    """Bytes that `linear_cross_entropy` holds for a while: a slice's logits with their gradient, and a head in bf16.

    `narrow`: under autocast to bf16. On a CPU the gradient is written over fp32 logits; elsewhere both have one type.
    """
    rows = min(tokens, max(1, _SLICE[device] // vocab))
    each = {("cpu", False): 4, ("cpu", True): 8, ("cuda", False): 8, ("cuda", True): 4}[device, narrow]
    return rows * vocab * each + vocab * width * 2 * narrow


def with_auxiliary(loss: Tensor, told: Sequence[Auxiliary], targets: Tensor) -> Tensor:
    """The same loss, whose gradient is that of the loss plus the layers' own, once for every target that counts."""
    own = [one.loss for one in told if one.loss is not None]
    if not own:
        return loss
    added = torch.stack(own).sum().to(loss.dtype) * (targets != IGNORED).sum()
    return loss + (added - added.detach())


def cap_logits(logits: Tensor, cap: float | None) -> Tensor:
    """c tanh(z / c): a soft bound on logits (arXiv 2408.00118, section 2)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward also computes the gradients, while it has a slice's logits; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, cap: float | None, z_loss: float, of_slice: LogitLoss
    ) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=wide)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        narrow = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        vocab, rows = len(weight), max(1, _SLICE[x.device.type] // len(weight))
        inner, padded = x.to(narrow), pad_weight(weight.to(narrow), rows=spare(vocab, x))
        grad_weight = torch.zeros_like(padded, dtype=weight.dtype) if ctx.needs_input_grad[1] else None
        for begin in range(0, len(x), rows):
            span = slice(begin, begin + rows)
            loss, grad = of_slice(F.linear(inner[span], padded), targets[span], vocab, cap, z_loss)
            total += loss
            if grad_x is not None:
                grad_x[span] = grad @ padded
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, inner[span])
            del grad  # before the next slice's
        ctx.save_for_backward(grad_x, None if grad_weight is None else grad_weight[:vocab])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = (None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors)
        return grad_x, grad_weight, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, without a tensor of its size in between where there is a product that adds in total's type."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _softmax_loss(logits: Tensor, targets: Tensor, cap: float | None, z_loss: float) -> Tensor:
    """The summed loss of (n, V) uncapped logits; the gradient by them is written over them."""
    if cap is not None:
        logits.div_(cap).tanh_().mul_(cap)
    counted = targets != IGNORED
    picked = torch.where(counted, targets, 0)[:, None]
    norm = torch.logsumexp(logits, dim=1, keepdim=True)
    loss = torch.where(counted[:, None], norm - logits.gather(1, picked), 0).sum()  # a mask as index waits for the GPU
    slope = None if cap is None else 1 - (logits / cap) ** 2
    grad = logits.sub_(norm).exp_()
    if z_loss:
        grad.mul_(1 + 2 * z_loss * norm)
    grad.scatter_add_(1, picked, torch.full_like(norm, -1)).mul_(counted[:, None])
    if slope is not None:
        grad.mul_(slope)
    return loss
