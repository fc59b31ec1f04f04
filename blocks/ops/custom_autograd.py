"""When layers use forms that are written for a CPU where operations run one by one (docs/decisions/05).

There every pass over memory takes time, and plain autograd makes more of them than needed. torch.compile joins passes
itself; a GPU has its own kernels; a trace should show the plain formula. Under autocast they multiply in its type.
"""

import torch
from torch import Tensor

TOKENS = 256  # of a call without gradients, from which on weights that are joined for it cost less than they save


def product_type(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The type in which such a form multiplies x (., D) and weight: autocast's where it is on, else theirs.

    None where it does not run: not eager on a CPU, types that differ, or without gradients and for few tokens.
    """
    few = not torch.is_grad_enabled() and x.numel() < TOKENS * x.shape[-1]
    if few or not eager_on_cpu(x):
        return None
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return x.dtype if x.dtype == weight.dtype else None


def eager_on_cpu(x: Tensor) -> bool:
    """Whether operations run one by one on a CPU."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()
