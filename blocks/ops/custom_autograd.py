"""When layers use custom autograd functions: in eager training on a CPU (docs/decisions/05).

There every pass over memory takes time, and plain autograd makes more of them than needed. torch.compile joins passes
itself; a GPU has its own kernels; autocast chooses the type of each product; a trace should show the plain formula.
"""

import torch
from torch import Tensor


def custom_autograd(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of x and weight uses a custom autograd function: both must be fp32, or both float64."""
    own = _trains_on_cpu(x) and not torch.is_autocast_enabled("cpu")
    return own and x.dtype == weight.dtype in (torch.float32, torch.float64)


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type in which a custom autograd function multiplies under autocast; None where it does not run there."""
    own = _trains_on_cpu(x) and torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if own else None


def _trains_on_cpu(x: Tensor) -> bool:
    eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing()
    return eager and x.device.type == "cpu" and torch.is_grad_enabled()
