"""RMSNorm (arXiv 1910.07467) in few passes over memory, forward and backward, on a CPU.

y = r x w with r = (mean(x^2) + eps)^(-1/2), channel by channel. With g = dL/dy:

    dL/dx = r g w - x r^3 / D sum(g w x)        dL/dw = sum over tokens of r g x

N tokens, D width. Torch computes both gradients by about fifteen operations on whole tensors, which takes up to four
times as long (docs/decisions/05-custom-autograd-on-a-cpu.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` of the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to the same."""
        assert self.weight is not None and self.eps is not None
        plain = not torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling()
        if plain or x.dtype != self.weight.dtype or x.dtype not in (torch.float32, torch.float64):
            return super().forward(x)
        y: Tensor = _RMSNorm.apply(x, self.weight, self.eps)
        return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        r = length.square_().div_(len(weight)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        shaped, weight, scale = ctx.saved_tensors
        x, g, r = (t.reshape(-1, t.shape[-1]) for t in (shaped, grads[0], scale))  # (N, D), (N, D), (N, 1)
        drawn = g * x
        dweight = r[:, 0] @ drawn
        pull = (drawn @ weight)[:, None].mul_(r.pow(3)).div_(-len(weight))
        dx = torch.mul(g, weight, out=drawn).mul_(r).addcmul_(x, pull)
        return dx.view_as(shaped), dweight, None
