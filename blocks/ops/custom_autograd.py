"""When layers use custom autograd functions: in eager training on a CPU (docs/decisions/05).

There every pass over memory takes time, and plain autograd makes more of them than needed. torch.compile joins passes
itself; a GPU has its own kernels; autocast chooses the type of each product; a trace should show the plain formula.
"""

import torch
from torch import Tensor


def custom_autograd(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of x and weight uses a custom autograd function: both must be fp32, or both float64."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return x.dtype == weight.dtype in (torch.float32, torch.float64)
