"""Where a layer's products and their gradients are written by hand: in eager training on a CPU.

There every pass over memory costs, and autograd makes more of them than need be. A compiler joins passes itself, a GPU
has kernels of its own, autocast runs products in a type that only it knows, and a trace is to show the plain formula.
"""

import torch
from torch import Tensor


def custom_autograd(x: Tensor, weight: Tensor) -> bool:
    """Whether to multiply x and weight, and differentiate that, by hand: both in fp32 or both in float64."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return x.dtype == weight.dtype in (torch.float32, torch.float64)
