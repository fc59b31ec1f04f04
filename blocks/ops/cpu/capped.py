"""Attention with softly capped scores, which torch's fused kernel does not know: its formulas, for one call's blocks.

R queries, L keys, E width of a head. With z = scale q . k and c the cap: s = c tanh(z / c), p = softmax of s, and

    dv = p^T dy    ds = p (dy v^T - sum over channels of y dy)    dz = ds (1 - (s / c)^2)    dq = scale dz k
"""

from torch import Tensor


def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, cap: float) -> tuple[Tensor, Tensor]:
    """Outputs (..., R, E) and the logarithms (..., R) of the softmax's norms. `mask` is added to capped scores."""
    s = _tanh(q, k, scale, cap).mul_(cap).add_(mask)
    norm = s.logsumexp(-1)
    return s.sub_(norm[..., None]).exp_() @ v, norm


def capped_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, norm: Tensor, mask: Tensor, scale: float, cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q (..., R, E), k and v (..., L, E)."""
    bent = _tanh(q, k, scale, cap)
    p = (bent * cap).add_(mask).sub_(norm[..., None]).exp_()
    dv = p.mT @ dy
    dz = (dy @ v.mT).sub_((y * dy).sum(-1, keepdim=True)).mul_(p).mul_(bent.square_().neg_().add_(1)).mul_(scale)
    return dz @ k, dz.mT @ q, dv


def _tanh(q: Tensor, k: Tensor, scale: float, cap: float) -> Tensor:
    """tanh(z / c): (..., R, L)."""
    return (q @ k.mT).mul_(scale / cap).tanh_()
