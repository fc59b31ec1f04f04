"""The sizes of a state space layer (mamba2), and what of it belongs to a process that shares sequences.

Letters: B batch, T tokens, H heads, P width of a head, I = H P, G groups that share B and C, N width of a state's row,
K taps of the convolution over I + 2 G N channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class SsdSizes(NamedTuple):
    """H, P, G, N and K."""

    heads: int
    head: int
    groups: int
    state: int
    taps: int

    @property
    def inner(self) -> int:
        """I, the width between the two projections."""
        return self.heads * self.head

    @property
    def sections(self) -> tuple[int, int, int, int, int]:
        """Outputs of in_proj: z, x, B, C and dt."""
        return self.inner, self.inner, self.groups * self.state, self.groups * self.state, self.heads

    @property
    def channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return sum(self.sections[1:4])

    def share(self, channels: Tensor, dim: int, ranks: int, take: Callable[[Tensor], Tensor]) -> Tensor:
        """x, B and C of own heads, from those of all, along `dim` of `channels`.

        `take` picks own heads where dimension `dim` counts heads. A group whose heads are spread over processes is
        taken by each of them.
        """
        if ranks == 1:
            return channels
        copies = math.lcm(self.groups, ranks) // self.groups
        x, b, c = channels.split(self.sections[1:4], dim)
        b, c = (t.unflatten(dim, (self.groups, -1)).repeat_interleave(copies, dim) for t in (b, c))
        parts = (take(t).flatten(dim, dim + 1) for t in (x.unflatten(dim, (self.heads, -1)), b, c))
        return torch.cat(list(parts), dim)
