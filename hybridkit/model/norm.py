"""RMSNorm (arXiv 1910.07467) in few passes over memory, forward and backward, on a CPU.

y = r x w with r = (mean(x^2) + eps)^(-1/2), channel by channel. With g = dL/dy:

    dL/dx = r g w - x r^3 / D sum(g w x)        dL/dw = sum over tokens of r g x

N tokens, D width. Torch computes both gradients by about fifteen operations on whole tensors, which takes up to four
times as long (docs/decisions/05-custom-autograd-on-a-cpu.md).

Under autocast the result has the type of products, in which every layer reads it: it is cast once, not by each product,
and what layers add to the stream is cast by that sum. Inside the norm all is at least fp32.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` of the last dimension; under autocast in the type of products."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to the same."""
        assert self.weight is not None and self.eps is not None
        kind = _result_type(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            wide = x if x.dtype == self.weight.dtype else x.to(self.weight.dtype)
            return super().forward(wide).to(kind)
        if not torch.is_grad_enabled():
            # For one token, calling autograd takes longer than this.
            return _normed(x, self.weight, self.eps)[0].to(kind)
        y: Tensor = _RMSNorm.apply(x, self.weight, self.eps, kind)
        return y


def _result_type(x: Tensor) -> torch.dtype:
    """The type of products with x."""
    device = x.device.type
    cast = device != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else x.dtype


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """y (..., D) and r (..., 1), both at least fp32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    r = length.square_().div_(len(weight)).add_(eps).rsqrt_()
    return (wide * r).mul_(weight), r


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, kind: torch.dtype) -> Tensor:
        y, r = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, r)
        return y.to(kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        shaped, weight, scale = ctx.saved_tensors
        x, g, r = (t.reshape(-1, t.shape[-1]).to(scale.dtype) for t in (shaped, grads[0], scale))  # (N, D), (N, 1)
        w, drawn = weight.to(r.dtype), g * x
        with torch.autocast(x.device.type, enabled=False):  # of a caller that has it on in backward
            dweight, pull = r[:, 0] @ drawn, drawn @ w
        pull = pull[:, None].mul_(r.pow(3)).div_(-len(w))
        dx = torch.mul(g, w, out=drawn).mul_(r).addcmul_(x, pull)
        return dx.view_as(shaped).to(shaped.dtype), dweight.to(weight.dtype), None, None
