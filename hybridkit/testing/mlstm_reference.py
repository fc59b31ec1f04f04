"""References for law 5, written as matrix products so that an independent counter sees all that a cell must do.

H heads, T tokens, L tokens of a chunk, K and V width of a key and of a value, E that of an extended value. Both forms
compute the mLSTM without its stabilizer (arXiv 2405.04517, equations 19 to 27, with m = 0, in float64, for gates that
are small):

    C_t = s_t C_{t-1} + e_t k_t v_t^T,   n_t = s_t n_{t-1} + e_t k_t,   h_t = C_t^T q_t / max(|n_t . q_t|, 1)

with s_t = sigmoid(f_t), e_t = exp(i_t) and q scaled by K^-1/2. In the recurrent form products with the vector n are
elementwise, as `exact` does not count them. In the chunkwise form n is a column of C, which is what runs: v gets a
column of ones, and zeros up to a multiple of 16, the width of the tiles that matrix units multiply.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 16  # columns that a matrix unit multiplies at a time


def mlstm_recurrent(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """h (H, T, V) from q, k (H, T, K), v (H, T, V), i, f (H, T), token by token: the least products of any form."""
    C = torch.zeros_like(k[:, 0, :, None] * v[:, 0, None])  # (H, K, V)
    n = torch.zeros_like(k[:, 0])  # (H, K)
    outputs = []
    for t in range(q.shape[1]):
        s, e = torch.sigmoid(f[:, t, None]), torch.exp(i[:, t, None])
        C = s[..., None] * C + (e * k[:, t])[..., None] @ v[:, t, None]
        n = s * n + e * k[:, t]
        outputs.append(_read(q[:, t, None], C, n[..., None]))
    return torch.cat(outputs, 1)


def mlstm_chunkwise(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, length: int) -> Tensor:
    """The same over chunks of `length` tokens, which divides T: whole L x L tiles, and the state once a chunk."""
    width = v.shape[-1]
    v = F.pad(F.pad(v, (0, 1), value=1), (0, -(width + 1) % TILE))  # (H, T, E)
    C, outputs = torch.zeros_like(k[:, 0, :, None] * v[:, 0, None]), []  # (H, K, E)
    for q_, k_, v_, i_, f_ in zip(*(x.split(length, 1) for x in (q, k, v, i, f)), strict=True):
        decay = F.logsigmoid(f_).cumsum(1)  # (H, L)
        pairs = (decay[:, :, None] - decay[:, None] + i_[:, None]).exp().tril()  # (H, L, L)
        sums = (_scaled(q_) @ k_.mT * pairs) @ v_ + _scaled(q_) @ C * decay.exp()[..., None]
        outputs.append(sums[..., :width] / sums[..., width, None].abs().clamp(min=1))
        keep, write = decay[:, -1, None], (decay[:, -1:] - decay + i_).exp()[..., None] * k_
        C = keep.exp()[..., None] * C + write.mT @ v_
    return torch.cat(outputs, 1)


def _read(q: Tensor, C: Tensor, n: Tensor) -> Tensor:
    """h (H, 1, V) of one token from q (H, 1, K), C (H, K, V) and n (H, K, 1)."""
    norm = (_scaled(q) * n.mT).sum(-1, keepdim=True)
    return _scaled(q) @ C / norm.abs().clamp(min=1)


def _scaled(q: Tensor) -> Tensor:
    return q * q.shape[-1] ** -0.5
