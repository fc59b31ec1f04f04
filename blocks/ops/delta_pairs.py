"""Products of all pairs of a chunk's tokens under decay, with their gradients: for one decay a head, or one a channel.

    kk_ts = sum over channels of k_t k_s exp(b_t - b_s)  for s < t          qk_ts likewise, with q_t, for s <= t

where b is the running sum of the log decay from the chunk's first token on. With one decay a channel the exponential
stays inside the sum, and written as exp(b_t) exp(-b_s) it would overflow where the decay is strong. So a chunk is
halved again and again. For t in the second and s in the first half, exp(b_t - b_m) exp(b_m - b_s), m the first half's
last token, has factors of at most 1, and the sum is a matrix product. Blocks of BASE tokens are summed lag by lag.

The gradient of k has two parts, that of the k_t, which grow with b_t, and that of the k_s, which shrink with b_s.

Letters: M chunks, L tokens a chunk, K channels of a key, n blocks of h tokens a chunk.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BASE = 8  # tokens of the smallest blocks; L is this times a power of two


class Pairs(Protocol):
    """The products, for q and k (M, L, K). Values above the diagonal, and on that of kk, count as zero."""

    def products(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """kk (M, L, L), of which only what lies below the diagonal is defined, and qk (M, L, L)."""
        ...

    def gradient(self, q: Tensor, k: Tensor, dkk: Tensor, dqk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients (M, L, K) of q, of k as k_t, and of k as k_s, through pairs s < t. It may overwrite dkk and dqk."""
        ...


class HeadPairs:
    """With one decay a head: b (M, L, 1). `same` (M, L, L) says which tokens share a document; None: all."""

    def __init__(self, b: Tensor, same: Tensor | None) -> None:
        unseen = torch.ones(b.shape[1], b.shape[1], dtype=torch.bool, device=b.device).triu(1)
        logs = b - b.mT
        self.decay = logs.masked_fill_(unseen if same is None else unseen | ~same, -torch.inf).exp_()

    def products(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return torch.bmm(k, k.mT).mul_(self.decay), torch.bmm(q, k.mT).mul_(self.decay)

    def gradient(self, q: Tensor, k: Tensor, dkk: Tensor, dqk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dkk, dqk = (t.mul_(self.decay).tril_(-1) for t in (dkk, dqk))
        return torch.bmm(dqk, k), torch.bmm(dkk, k), torch.baddbmm(torch.bmm(dqk.mT, q), dkk.mT, k)

    @staticmethod
    def count(length: int, key: int) -> int:
        """Multiply-adds of the products of one chunk."""
        return 2 * length**2 * key


class ChannelPairs:
    """With one decay a channel: b (M, L, K)."""

    def __init__(self, b: Tensor, same: Tensor | None) -> None:
        self.b, self.same = b, same
        self.halves = [BASE << level for level in range((int(b.shape[1]) // BASE).bit_length() - 1)]

    def products(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        kk, qk = (q.new_zeros(*q.shape[:2], q.shape[1]) for _ in range(2))
        for h in self.halves:
            (_, q_right), (k_left, k_right), (left, right) = _halved(q, h), _halved(k, h), self._weights(h)
            columns = (k_left * left).mT
            diagonal_blocks(qk, 2 * h)[..., h:, :h] = (q_right * right) @ columns
            diagonal_blocks(kk, 2 * h)[..., h:, :h] = (k_right * right) @ columns
        q, k = _blocks(q, BASE), _blocks(k, BASE)
        for lag in range(BASE):
            columns = k[:, :, : BASE - lag] * self._lag(lag)
            for matrix, rows in ((qk, q), (kk, k)):
                diagonal = diagonal_blocks(matrix, BASE).diagonal(-lag, -2, -1)
                diagonal.copy_((rows[:, :, lag:] * columns).sum(-1))
        return self._masked(kk), self._masked(qk)

    def gradient(self, q: Tensor, k: Tensor, dkk: Tensor, dqk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dkk, dqk, grads = self._masked(dkk), self._masked(dqk), [torch.zeros_like(t) for t in (q, k, k)]
        self._base_gradient(_blocks(q, BASE), _blocks(k, BASE), dkk, dqk, [_blocks(t, BASE) for t in grads])
        for h in self.halves:
            (_, q_right), (k_left, k_right), (left, right) = _halved(q, h), _halved(k, h), self._weights(h)
            (_, dq), (_, d_row), (d_column, _) = (_halved(t, h) for t in grads)
            dq_block, dk_block = (diagonal_blocks(t, 2 * h)[..., h:, :h] for t in (dqk, dkk))
            columns = k_left * left
            dq.addcmul_(dq_block @ columns, right)
            d_row.addcmul_(dk_block @ columns, right)
            d_column.addcmul_(dq_block.mT @ (q_right * right) + dk_block.mT @ (k_right * right), left)
        return grads[0], grads[1], grads[2]

    @staticmethod
    def count(length: int, key: int) -> int:
        """Multiply-adds of the products of one chunk: L h of each level, and of all lags in the smallest blocks."""
        return length * key * (length - BASE) + length * key * (BASE + 1)

    def _base_gradient(self, q: Tensor, k: Tensor, dkk: Tensor, dqk: Tensor, grads: list[Tensor]) -> None:
        """That of the smallest blocks (M, n, BASE, K), added to `grads`."""
        dq, d_row, d_column = grads
        for lag in range(1, BASE):
            rows, own, weights = slice(lag, None), slice(0, BASE - lag), self._lag(lag)
            dq_lag, dk_lag = (diagonal_blocks(t, BASE).diagonal(-lag, -2, -1)[..., None] for t in (dqk, dkk))
            columns = k[:, :, own] * weights
            dq[:, :, rows].addcmul_(dq_lag, columns)
            d_row[:, :, rows].addcmul_(dk_lag, columns)
            given = (dq_lag * q[:, :, rows]).addcmul_(dk_lag, k[:, :, rows])
            d_column[:, :, own].addcmul_(given, weights)

    def _weights(self, h: int) -> tuple[Tensor, Tensor]:
        """Decay from each token of a first half to its last one, and from there to each token of the second half."""
        first, second = _halved(self.b, h)
        middle = first[:, :, -1:]
        return torch.exp(middle - first), torch.exp(second - middle)

    def _lag(self, lag: int) -> Tensor:
        """Decay over `lag` tokens inside the smallest blocks (M, n, BASE - lag, K)."""
        b = _blocks(self.b, BASE)
        return torch.exp(b[:, :, lag:] - b[:, :, : BASE - lag])

    def _masked(self, t: Tensor) -> Tensor:
        return t if self.same is None else t.masked_fill_(~self.same, 0)


def diagonal_blocks(t: Tensor, size: int) -> Tensor:
    """The square blocks along the diagonal of (M, L, L), as a view (M, n, size, size)."""
    return t.unflatten(2, (-1, size)).unflatten(1, (-1, size)).diagonal(0, 1, 3).permute(0, 3, 1, 2)


def _blocks(t: Tensor, size: int) -> Tensor:
    """(M, L, K) as (M, n, size, K)."""
    return t.unflatten(1, (-1, size))


def _halved(t: Tensor, h: int) -> tuple[Tensor, Tensor]:
    """First and second halves (M, n, h, K) of blocks of 2 h tokens."""
    first, second = t.unflatten(1, (-1, 2, h)).unbind(2)
    return first, second
